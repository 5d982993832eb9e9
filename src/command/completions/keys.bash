
# What the function above does not know: keys that holders of this user have, and the command behind `exec KEY`.

_dflock_valued=" @VALUED@ "

# Offers the keys for the verb $1 that begin with $2.
_dflock_keys() {
    local key quoted typed="$2" head=""
    # Readline replaces only what stands behind the last of these.
    if [[ $typed == *[:=@]* ]]; then
        local last="${typed##*[:=@]}"
        local mark="${typed%"$last"}"
        [[ $COMP_WORDBREAKS == *"${mark: -1}"* ]] && head="$mark"
    fi
    COMPREPLY=()
    while IFS= read -r key; do
        printf -v quoted '%q' "$key"
        if [[ -n $key && ( $key == "$typed"* || $quoted == "$typed"* ) ]]; then
            COMPREPLY+=("${quoted#"$head"}")
        fi
    done <<<"$(dflock holders --keys --for "$1" 2>/dev/null)"
}

# Leaves it to the command's own completion; $1 is its first word, or empty if that is being typed.
_dflock_command() {
    local at=$COMP_CWORD
    if [[ -n $1 ]]; then
        for ((at = 3; at < COMP_CWORD; at++)); do
            [[ ${COMP_WORDS[at]} == "$1" ]] && break
        done
    fi
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$at"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$at"
    elif [[ -z $1 ]]; then
        COMPREPLY=($(compgen -A command -- "${COMP_WORDS[COMP_CWORD]}"))
    fi
}

_dflock_or_keys() {
    local line="${COMP_LINE:0:COMP_POINT}" typed="" verb="" first="" word skip="" dashes=""
    local -i before=0 last
    local -a words
    COMPREPLY=()
    # Not COMP_WORDS: that is cut at every colon.
    read -r -a words <<<"$line"
    if [[ $line != *[[:space:]] ]]; then
        last=${#words[@]}-1
        typed="${words[last]}"
        unset "words[last]"
    fi
    for word in "${words[@]:1}"; do
        if [[ -n $skip ]]; then
            skip=""
        elif [[ -z $dashes && $word == -- ]]; then
            dashes=1
        elif [[ -z $dashes && $word == -* ]]; then
            [[ $_dflock_valued == *" $word "* ]] && skip=1
        elif [[ -z $verb || $verb == sem ]]; then
            verb="${verb:+$verb-}$word"
        else
            before+=1
            # What follows the first word of a command is the command's.
            [[ $verb == exec && $before -eq 2 ]] && { first="$word"; break; }
        fi
    done
    if [[ -z $skip && ( $typed != -* || -n $dashes || -n $first ) ]]; then
        case "$verb,$before" in
            release,0 | renew,0 | wait,0 | sem-release,0 | sem-renew,0 | sem-wait,0)
                _dflock_keys "$verb" "$typed"
                return
                ;;
            exec,[1-9]*)
                _dflock_command "$first"
                return
                ;;
            exec,0 | acquire,* | enqueue,* | status,* | release,* | renew,* | wait,* | sem-*)
                # A key or a token: no file.
                type compopt >/dev/null 2>&1 && compopt +o default +o bashdefault
                return
                ;;
        esac
    fi
    _dflock "$@"
}
