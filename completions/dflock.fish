# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_dflock_global_optspecs
    string join \n h/help V/version
end

function __fish_dflock_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_dflock_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_dflock_using_subcommand
    set -l cmd (__fish_dflock_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c dflock -n "__fish_dflock_needs_command" -s h -l help -d 'Print help'
complete -c dflock -n "__fish_dflock_needs_command" -s V -l version -d 'Print version'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "exec" -d 'Run a command while holding a lock'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "acquire" -d 'Take a lock and keep it until it is released'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "release" -d 'Give a lock back'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "renew" -d 'Extend the lease of a lock'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "enqueue" -d 'Join the queue for a lock without waiting'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "wait" -d 'Wait for the turn of an earlier `enqueue`'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "sem" -d 'Use a semaphore, which up to --limit N may hold: the same verbs'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "status" -d 'Show whether a lock is held'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "stats" -d 'Show what the servers hold'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "holders" -d 'List the holders of this user'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "serve" -d 'Run a lock server'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "config" -d 'Show the settings in force and where each comes from'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "completions" -d 'Print the script that completes dflock\'s command line in a shell'
complete -c dflock -n "__fish_dflock_needs_command" -f -a "man" -d 'Write the manual as man pages into a directory'
complete -c dflock -n "__fish_dflock_using_subcommand exec" -s c -l command -d 'Run STRING with /bin/sh' -r -f -a "(__fish_complete_command)"
complete -c dflock -n "__fish_dflock_using_subcommand exec" -s w -l timeout -d 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]' -r -f -a "forever\t''"
complete -c dflock -n "__fish_dflock_using_subcommand exec" -s l -l lease -d 'Lease: how long the server keeps the lock without hearing from us [default: the server\'s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l limit -d 'Take one of N slots: all must name the same N, and whoever names none takes another lock' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l also -d 'Take this key too, all or nothing (can be repeated)' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -s E -l busy-code -d 'Exit code when the lock is not obtained [default: 75]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l kill-after -d 'How long the command may take to end when it is told to [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l on-lost -d 'What to do when the lock is lost' -r -f -a "stop\t'Stop the command'
warn\t'Say so and let it run on'"
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l contain -d 'How to hold the command\'s processes together, so that all of them can be ended' -r -f -a "auto\t'In a cgroup where one can be made, otherwise as group'
group\t'By who descends from the command'
cgroup\t'In a cgroup of its own, below dflock\'s; refused where that cannot be made'
pidns\t'In a PID namespace, which ends with dflock whatever happens; refused where that cannot be made'"
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l max-runtime -d 'How long the command may run; then it is stopped and the exit code is 124' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l min-hold -d 'Keep the lock at least this long, even if the command ends before: a holder has it meanwhile' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l jitter -d 'Wait a random time up to this before asking' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand exec" -s n -l no-wait -d 'Fail at once if it is busy'
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand exec" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand exec" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand exec" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand exec" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -s w -l timeout -d 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]' -r -f -a "forever\t''"
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -s l -l lease -d 'Lease: how long the server keeps the lock without hearing from us [default: the server\'s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l owner -d 'Release when this process ends, or `none` [default: the calling script]' -r -f -a "none\t''"
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l max-hold -d 'Release after this long at the latest' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l signal-on-lost -d 'Send this signal to the owner when the lock is lost, even if the holder is killed' -r -f -a "HUP\t''
INT\t''
QUIT\t''
TERM\t''
USR1\t''
USR2\t''"
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -s n -l no-wait -d 'Fail at once if it is busy'
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -l export -d 'Print the token and more as variables, for `eval`; the lines fail unless the lock was taken'
complete -c dflock -n "__fish_dflock_using_subcommand acquire" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand release" -l token-file -d 'Read the token from this file: an argument can be seen by other users' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand release" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand release" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand release" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand release" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand release" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand release" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand release" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand release" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand release" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand release" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand release" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand release" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand release" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand release" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand release" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand release" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand release" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand release" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand release" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l token-file -d 'Read the token from this file: an argument can be seen by other users' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand renew" -s l -l lease -d 'New lease [default: as before, as far as it is known; else the server\'s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand renew" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand renew" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand renew" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand renew" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand renew" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -s w -l timeout -d 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]' -r -f -a "forever\t''"
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -s l -l lease -d 'Lease: how long the server keeps the lock without hearing from us [default: the server\'s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l owner -d 'Release when this process ends, or `none` [default: the calling script]' -r -f -a "none\t''"
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l max-hold -d 'Release after this long at the latest' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l signal-on-lost -d 'Send this signal to the owner when the lock is lost, even if the holder is killed' -r -f -a "HUP\t''
INT\t''
QUIT\t''
TERM\t''
USR1\t''
USR2\t''"
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -s n -l no-wait -d 'Fail at once if it is busy'
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand enqueue" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l token-file -d 'Read the token from this file: an argument can be seen by other users' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand wait" -s w -l timeout -d 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]' -r -f -a "forever\t''"
complete -c dflock -n "__fish_dflock_using_subcommand wait" -s l -l lease -d 'Lease: how long the server keeps the lock without hearing from us [default: the server\'s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand wait" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand wait" -s n -l no-wait -d 'Fail at once if it is busy'
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand wait" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand wait" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand wait" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand wait" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and not __fish_seen_subcommand_from acquire release renew enqueue wait" -s h -l help -d 'Print help'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and not __fish_seen_subcommand_from acquire release renew enqueue wait" -f -a "acquire" -d 'Take a lock and keep it until it is released'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and not __fish_seen_subcommand_from acquire release renew enqueue wait" -f -a "release" -d 'Give a lock back'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and not __fish_seen_subcommand_from acquire release renew enqueue wait" -f -a "renew" -d 'Extend the lease of a lock'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and not __fish_seen_subcommand_from acquire release renew enqueue wait" -f -a "enqueue" -d 'Join the queue for a lock without waiting'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and not __fish_seen_subcommand_from acquire release renew enqueue wait" -f -a "wait" -d 'Wait for the turn of an earlier `enqueue`'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l limit -d 'How many may hold it at once: all must name the same number; the lock KEY is another thing' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -s w -l timeout -d 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]' -r -f -a "forever\t''"
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -s l -l lease -d 'Lease: how long the server keeps the lock without hearing from us [default: the server\'s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l owner -d 'Release when this process ends, or `none` [default: the calling script]' -r -f -a "none\t''"
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l max-hold -d 'Release after this long at the latest' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l signal-on-lost -d 'Send this signal to the owner when the lock is lost, even if the holder is killed' -r -f -a "HUP\t''
INT\t''
QUIT\t''
TERM\t''
USR1\t''
USR2\t''"
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -s n -l no-wait -d 'Fail at once if it is busy'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -l export -d 'Print the token and more as variables, for `eval`; the lines fail unless the lock was taken'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from acquire" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l limit -d 'How many may hold it at once: all must name the same number; the lock KEY is another thing' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l token-file -d 'Read the token from this file: an argument can be seen by other users' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from release" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l limit -d 'How many may hold it at once: all must name the same number; the lock KEY is another thing' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l token-file -d 'Read the token from this file: an argument can be seen by other users' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -s l -l lease -d 'New lease [default: as before, as far as it is known; else the server\'s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from renew" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l limit -d 'How many may hold it at once: all must name the same number; the lock KEY is another thing' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -s w -l timeout -d 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]' -r -f -a "forever\t''"
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -s l -l lease -d 'Lease: how long the server keeps the lock without hearing from us [default: the server\'s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l owner -d 'Release when this process ends, or `none` [default: the calling script]' -r -f -a "none\t''"
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l max-hold -d 'Release after this long at the latest' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l signal-on-lost -d 'Send this signal to the owner when the lock is lost, even if the holder is killed' -r -f -a "HUP\t''
INT\t''
QUIT\t''
TERM\t''
USR1\t''
USR2\t''"
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -s n -l no-wait -d 'Fail at once if it is busy'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from enqueue" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l limit -d 'How many may hold it at once: all must name the same number; the lock KEY is another thing' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l token-file -d 'Read the token from this file: an argument can be seen by other users' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -s w -l timeout -d 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]' -r -f -a "forever\t''"
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -s l -l lease -d 'Lease: how long the server keeps the lock without hearing from us [default: the server\'s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -s n -l no-wait -d 'Fail at once if it is busy'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand sem; and __fish_seen_subcommand_from wait" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand status" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand status" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand status" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand status" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand status" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand status" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand status" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand status" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand status" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand status" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand status" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand status" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand status" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand status" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand status" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand status" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand status" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand status" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand status" -s h -l help -d 'Print help'
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l format -d 'Form of the answer [default: json]' -r -f -a "json\t''
table\t''
prometheus\t''"
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l key-prefix -d 'Show only keys that begin with PREFIX' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l watch -d 'Ask every DUR, and show a live table on a terminal, lines otherwise [default: 2s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand stats" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand stats" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand stats" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand stats" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand stats" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand holders" -l for -d 'Only those that a verb could be about' -r -f -a "release\t''
renew\t''
wait\t''
sem-release\t''
sem-renew\t''
sem-wait\t''"
complete -c dflock -n "__fish_dflock_using_subcommand holders" -l keys -d 'Print only the keys, one a line'
complete -c dflock -n "__fish_dflock_using_subcommand holders" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand holders" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand holders" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand holders" -s h -l help -d 'Print help'
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l host -d 'Address to listen on: an IP address, a host name, or unix:/path (can be repeated)' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l port -d 'Port to listen on; 0 takes a free one' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l socket-mode -d 'Who may connect to a socket file, in octal as for chmod; 660 if only --socket-group is named, else as the umask says' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l socket-group -d 'Group of a socket file: a name, or a number' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l default-lease-ttl -d 'Lease of a lock whose client names none, in seconds' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l max-lease -d 'The longest lease that is given out: whoever asks for a longer one is told this one' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l max-locks -d 'How many keys there may be; unused ones give way' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l max-connections -d 'How many connections there may be; 0 for as many as there are descriptors' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l max-connections-per-ip -d 'How many connections one address may have; 0 for any number [default: half of all, if 64 or more are allowed]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l max-memory -d 'How much memory may be in use, such as 512M or 2G; 0 for any amount [default: half of what there is]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l max-waiters -d 'How many may wait for one key, and as many whose client is away; 0 for any number' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l read-timeout -d 'How long a client may take for a request, and be silent while it neither holds nor waits' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l write-timeout -d 'How long a client may take to read an answer; 0 for any time' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l shutdown-timeout -d 'How long holders may finish once the server is told to stop; 0 for any time' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l gc-max-idle -d 'How long a key that nobody uses is remembered' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l auto-release-on-disconnect -d 'Release a client\'s locks when its connection closes (the default)' -r -f -a "true\t''
false\t''"
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l tls-cert -d 'Certificate chain to show, as PEM; turns TLS on' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l tls-key -d 'Private key of the certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l tls-client-ca -d 'Let in only clients with a certificate of this authority, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l auth-token-file -d 'File with the auth token that clients must send, or two, a line each; DFLOCKD_AUTH_TOKEN may hold one instead' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l state-dir -d 'Directory to keep what is held in, over crashes, restarts and upgrades; made if it is not there' -r -f -a "(__fish_complete_directories)"
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l fsync -d 'When what is written to --state-dir is brought to the disk itself' -r -f -a "always\t'Before anything is answered'
interval\t'At most every 50 ms'
never\t'When the system does it'"
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l idle-exit -d 'Stop when nothing was connected, held or queued for this long' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l log-format -d 'Form of the log on stderr' -r -f -a "text\t''
json\t''"
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l no-auto-release-on-disconnect -d 'Keep a client\'s locks until their lease ends when its connection closes; beats the flag above'
complete -c dflock -n "__fish_dflock_using_subcommand serve" -l detach -d 'As a command starts it in the background: alone, away from its terminal, with its state among our own files'
complete -c dflock -n "__fish_dflock_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand config" -s s -l servers -d 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 or etcd://a:2379,b:2379 a cluster [default: 127.0.0.1:6388]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand config" -l shard -d 'Use this shard, counted from 0, whatever the key' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand config" -l tls-ca -d 'Trust this authority instead of the system\'s, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand config" -l tls-cert -d 'Certificate to show, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand config" -l tls-key -d 'Private key of that certificate, as PEM' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand config" -l tls-name -d 'Name to expect in the server\'s certificate instead of its host name' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand config" -l auth-token-file -d 'File with the auth token that the server asks for, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand config" -l etcd-prefix -d 'In etcd, use the keys of `etcdctl lock PREFIX<KEY>`, so that both exclude each other' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand config" -l etcd-user -d 'User to log in to etcd as' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand config" -l etcd-password-file -d 'File with that user\'s password, of mode 600, or 640 if a group may know it' -r -F
complete -c dflock -n "__fish_dflock_using_subcommand config" -l connect-timeout -d 'How long a connection may take, TLS included [default: 5s]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand config" -l connect-retry -d 'How long to try again while no server can be reached [default: 5s for what waits for a lock, else 0]' -r -f
complete -c dflock -n "__fish_dflock_using_subcommand config" -l require-server -d 'Start no server on this machine, as autostart = false in the settings'
complete -c dflock -n "__fish_dflock_using_subcommand config" -l tls -d 'Speak TLS, as the options below mean too'
complete -c dflock -n "__fish_dflock_using_subcommand config" -l allow-plaintext-token -d 'Send the auth token, or the password for etcd, in clear text to other machines too'
complete -c dflock -n "__fish_dflock_using_subcommand config" -l json -d 'Answer with one JSON object on stdout, failures too'
complete -c dflock -n "__fish_dflock_using_subcommand config" -s q -l quiet -d 'Say nothing of a lock that is busy'
complete -c dflock -n "__fish_dflock_using_subcommand config" -s v -l verbose -d 'Say more on stderr'
complete -c dflock -n "__fish_dflock_using_subcommand config" -s h -l help -d 'Print help'
complete -c dflock -n "__fish_dflock_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dflock -n "__fish_dflock_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'

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

set -g __dflock_valued --also --auth-token-file --busy-code --command --connect-retry --connect-timeout --contain --default-lease-ttl --etcd-password-file --etcd-prefix --etcd-user --for --format --fsync --gc-max-idle --host --idle-exit --jitter --key-prefix --kill-after --lease --limit --log-format --max-connections --max-connections-per-ip --max-hold --max-lease --max-locks --max-memory --max-runtime --max-waiters --min-hold --on-lost --owner --port --read-timeout --servers --shard --shutdown-timeout --signal-on-lost --socket-group --socket-mode --state-dir --timeout --tls-ca --tls-cert --tls-client-ca --tls-key --tls-name --token-file --watch --write-timeout -E -c -l -s -w

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
