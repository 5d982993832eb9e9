
# What clap leaves out: arguments that are no flags, keys that holders of this user have among them.
for verb in release renew wait
    complete -c dflock -n "__fish_dflock_using_subcommand $verb" -f -a "(dflock holders --keys --for $verb 2>/dev/null)"
    complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from $verb" -f -a "(dflock holders --keys --for sem-$verb 2>/dev/null)"
end
for verb in acquire enqueue status
    complete -c dflock -n "__fish_dflock_using_subcommand $verb" -f
end

complete -c dflock -n "__fish_dflock_using_subcommand completions" -f -a "bash elvish fish powershell zsh"
complete -c dflock -n "__fish_dflock_using_subcommand man" -f -a "(__fish_complete_directories)"

set -g __dflock_valued @VALUED@

# Whether the key of `dflock exec` is there already.
function __dflock_has_key
    set -l skip ''
    for word in (commandline -opc)[3..-1]
        if test -n "$skip"
            set skip ''
        else if contains -- $word $__dflock_valued
            set skip yes
        else if not string match -q -- '-*' $word
            return 0
        end
    end
    return 1
end
complete -c dflock -n "__fish_dflock_using_subcommand exec" -f
complete -c dflock -n "__fish_dflock_using_subcommand exec; and __dflock_has_key" -a "(__fish_complete_subcommand --fcs-skip=3 \$__dflock_valued)"
