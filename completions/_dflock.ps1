
using namespace System.Management.Automation
using namespace System.Management.Automation.Language

Register-ArgumentCompleter -Native -CommandName 'dflock' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $commandElements = $commandAst.CommandElements
    $command = @(
        'dflock'
        for ($i = 1; $i -lt $commandElements.Count; $i++) {
            $element = $commandElements[$i]
            if ($element -isnot [StringConstantExpressionAst] -or
                $element.StringConstantType -ne [StringConstantType]::BareWord -or
                $element.Value.StartsWith('-') -or
                $element.Value -eq $wordToComplete) {
                break
        }
        $element.Value
    }) -join ';'

    $completions = @(switch ($command) {
        'dflock' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('-V', '-V ', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('--version', '--version', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('exec', 'exec', [CompletionResultType]::ParameterValue, 'Run a command while holding a lock')
            [CompletionResult]::new('acquire', 'acquire', [CompletionResultType]::ParameterValue, 'Take a lock and keep it until it is released')
            [CompletionResult]::new('release', 'release', [CompletionResultType]::ParameterValue, 'Give a lock back')
            [CompletionResult]::new('renew', 'renew', [CompletionResultType]::ParameterValue, 'Extend the lease of a lock')
            [CompletionResult]::new('enqueue', 'enqueue', [CompletionResultType]::ParameterValue, 'Join the queue for a lock without waiting')
            [CompletionResult]::new('wait', 'wait', [CompletionResultType]::ParameterValue, 'Wait for the turn of an earlier `enqueue`')
            [CompletionResult]::new('sem', 'sem', [CompletionResultType]::ParameterValue, 'Use a semaphore, which up to --limit N may hold: the same verbs')
            [CompletionResult]::new('status', 'status', [CompletionResultType]::ParameterValue, 'Show whether a lock is held')
            [CompletionResult]::new('stats', 'stats', [CompletionResultType]::ParameterValue, 'Show what the servers hold')
            [CompletionResult]::new('holders', 'holders', [CompletionResultType]::ParameterValue, 'List the holders of this user')
            [CompletionResult]::new('serve', 'serve', [CompletionResultType]::ParameterValue, 'Run a lock server')
            [CompletionResult]::new('config', 'config', [CompletionResultType]::ParameterValue, 'Show the settings in force and where each comes from')
            [CompletionResult]::new('completions', 'completions', [CompletionResultType]::ParameterValue, 'Print the script that completes dflock''s command line in a shell')
            [CompletionResult]::new('man', 'man', [CompletionResultType]::ParameterValue, 'Write the manual as man pages into a directory')
            break
        }
        'dflock;exec' {
            [CompletionResult]::new('-c', '-c', [CompletionResultType]::ParameterName, 'Run STRING with /bin/sh')
            [CompletionResult]::new('--command', '--command', [CompletionResultType]::ParameterName, 'Run STRING with /bin/sh')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('--lease', '--lease', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'Take one of N slots instead: all users of KEY must name the same N')
            [CompletionResult]::new('--also', '--also', [CompletionResultType]::ParameterName, 'Take this key too, all or nothing (can be repeated)')
            [CompletionResult]::new('-E', '-E ', [CompletionResultType]::ParameterName, 'Exit code when the lock is not obtained [default: 75]')
            [CompletionResult]::new('--busy-code', '--busy-code', [CompletionResultType]::ParameterName, 'Exit code when the lock is not obtained [default: 75]')
            [CompletionResult]::new('--kill-after', '--kill-after', [CompletionResultType]::ParameterName, 'How long the command may take to end when it is told to [default: 5s]')
            [CompletionResult]::new('--on-lost', '--on-lost', [CompletionResultType]::ParameterName, 'What to do when the lock is lost')
            [CompletionResult]::new('--max-runtime', '--max-runtime', [CompletionResultType]::ParameterName, 'How long the command may run; then it is stopped and the exit code is 124')
            [CompletionResult]::new('--min-hold', '--min-hold', [CompletionResultType]::ParameterName, 'Keep the lock at least this long, even if the command ends before: a holder has it meanwhile')
            [CompletionResult]::new('--jitter', '--jitter', [CompletionResultType]::ParameterName, 'Wait a random time up to this before asking')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;acquire' {
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('--lease', '--lease', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('--owner', '--owner', [CompletionResultType]::ParameterName, 'Release when this process ends, or `none` [default: the calling script]')
            [CompletionResult]::new('--max-hold', '--max-hold', [CompletionResultType]::ParameterName, 'Release after this long at the latest')
            [CompletionResult]::new('--signal-on-lost', '--signal-on-lost', [CompletionResultType]::ParameterName, 'Send this signal to the owner when the lock is lost')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--export', '--export', [CompletionResultType]::ParameterName, 'Print lines for `eval`: the token and more as variables')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;release' {
            # A key with other characters would need quotes.
            dflock holders --keys --for release 2>$null | Where-Object { $_ -match '^[\w./:%+,-]+$' } | ForEach-Object {
                [CompletionResult]::new($_, $_, [CompletionResultType]::ParameterValue, 'A key that a holder has')
            }
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;renew' {
            # A key with other characters would need quotes.
            dflock holders --keys --for renew 2>$null | Where-Object { $_ -match '^[\w./:%+,-]+$' } | ForEach-Object {
                [CompletionResult]::new($_, $_, [CompletionResultType]::ParameterValue, 'A key that a holder has')
            }
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'New lease [default: as before]')
            [CompletionResult]::new('--lease', '--lease', [CompletionResultType]::ParameterName, 'New lease [default: as before]')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;enqueue' {
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('--lease', '--lease', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('--owner', '--owner', [CompletionResultType]::ParameterName, 'Release when this process ends, or `none` [default: the calling script]')
            [CompletionResult]::new('--max-hold', '--max-hold', [CompletionResultType]::ParameterName, 'Release after this long at the latest')
            [CompletionResult]::new('--signal-on-lost', '--signal-on-lost', [CompletionResultType]::ParameterName, 'Send this signal to the owner when the lock is lost')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--export', '--export', [CompletionResultType]::ParameterName, 'Print lines for `eval`: the token and more as variables')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;wait' {
            # A key with other characters would need quotes.
            dflock holders --keys --for wait 2>$null | Where-Object { $_ -match '^[\w./:%+,-]+$' } | ForEach-Object {
                [CompletionResult]::new($_, $_, [CompletionResultType]::ParameterValue, 'A key that a holder has')
            }
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('--lease', '--lease', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;sem' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('acquire', 'acquire', [CompletionResultType]::ParameterValue, 'Take a lock and keep it until it is released')
            [CompletionResult]::new('release', 'release', [CompletionResultType]::ParameterValue, 'Give a lock back')
            [CompletionResult]::new('renew', 'renew', [CompletionResultType]::ParameterValue, 'Extend the lease of a lock')
            [CompletionResult]::new('enqueue', 'enqueue', [CompletionResultType]::ParameterValue, 'Join the queue for a lock without waiting')
            [CompletionResult]::new('wait', 'wait', [CompletionResultType]::ParameterValue, 'Wait for the turn of an earlier `enqueue`')
            break
        }
        'dflock;sem;acquire' {
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'How many may hold it at once; all its users must name the same number')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('--lease', '--lease', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('--owner', '--owner', [CompletionResultType]::ParameterName, 'Release when this process ends, or `none` [default: the calling script]')
            [CompletionResult]::new('--max-hold', '--max-hold', [CompletionResultType]::ParameterName, 'Release after this long at the latest')
            [CompletionResult]::new('--signal-on-lost', '--signal-on-lost', [CompletionResultType]::ParameterName, 'Send this signal to the owner when the lock is lost')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--export', '--export', [CompletionResultType]::ParameterName, 'Print lines for `eval`: the token and more as variables')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;sem;release' {
            # A key with other characters would need quotes.
            dflock holders --keys --for sem-release 2>$null | Where-Object { $_ -match '^[\w./:%+,-]+$' } | ForEach-Object {
                [CompletionResult]::new($_, $_, [CompletionResultType]::ParameterValue, 'A key that a holder has')
            }
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'How many may hold it at once; all its users must name the same number')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;sem;renew' {
            # A key with other characters would need quotes.
            dflock holders --keys --for sem-renew 2>$null | Where-Object { $_ -match '^[\w./:%+,-]+$' } | ForEach-Object {
                [CompletionResult]::new($_, $_, [CompletionResultType]::ParameterValue, 'A key that a holder has')
            }
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'How many may hold it at once; all its users must name the same number')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'New lease [default: as before]')
            [CompletionResult]::new('--lease', '--lease', [CompletionResultType]::ParameterName, 'New lease [default: as before]')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;sem;enqueue' {
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'How many may hold it at once; all its users must name the same number')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('--lease', '--lease', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('--owner', '--owner', [CompletionResultType]::ParameterName, 'Release when this process ends, or `none` [default: the calling script]')
            [CompletionResult]::new('--max-hold', '--max-hold', [CompletionResultType]::ParameterName, 'Release after this long at the latest')
            [CompletionResult]::new('--signal-on-lost', '--signal-on-lost', [CompletionResultType]::ParameterName, 'Send this signal to the owner when the lock is lost')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--export', '--export', [CompletionResultType]::ParameterName, 'Print lines for `eval`: the token and more as variables')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;sem;wait' {
            # A key with other characters would need quotes.
            dflock holders --keys --for sem-wait 2>$null | Where-Object { $_ -match '^[\w./:%+,-]+$' } | ForEach-Object {
                [CompletionResult]::new($_, $_, [CompletionResultType]::ParameterValue, 'A key that a holder has')
            }
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'How many may hold it at once; all its users must name the same number')
            [CompletionResult]::new('-w', '-w', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('--timeout', '--timeout', [CompletionResultType]::ParameterName, 'How long to wait; 0 is --no-wait, `forever` has no limit [default: 10s]')
            [CompletionResult]::new('-l', '-l', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('--lease', '--lease', [CompletionResultType]::ParameterName, 'Lease: how long the server keeps the lock without hearing from us [default: the server''s]')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--no-wait', '--no-wait', [CompletionResultType]::ParameterName, 'Fail at once if it is busy')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;status' {
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'dflock;stats' {
            [CompletionResult]::new('--format', '--format', [CompletionResultType]::ParameterName, 'Form of the answer [default: json]')
            [CompletionResult]::new('--watch', '--watch', [CompletionResultType]::ParameterName, 'Ask every DUR, and show a live table on a terminal, lines otherwise [default: 2s]')
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;holders' {
            [CompletionResult]::new('--for', '--for', [CompletionResultType]::ParameterName, 'Only those that a verb could be about')
            [CompletionResult]::new('--keys', '--keys', [CompletionResultType]::ParameterName, 'Print only the keys, one a line')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'dflock;serve' {
            [CompletionResult]::new('--host', '--host', [CompletionResultType]::ParameterName, 'Address to listen on: an IP address, a host name, or unix:/path (can be repeated)')
            [CompletionResult]::new('--port', '--port', [CompletionResultType]::ParameterName, 'Port to listen on; 0 takes a free one')
            [CompletionResult]::new('--default-lease-ttl', '--default-lease-ttl', [CompletionResultType]::ParameterName, 'Lease of a lock whose client names none, in seconds')
            [CompletionResult]::new('--max-locks', '--max-locks', [CompletionResultType]::ParameterName, 'How many keys there may be; unused ones give way')
            [CompletionResult]::new('--max-connections', '--max-connections', [CompletionResultType]::ParameterName, 'How many connections there may be; 0 for as many as there are descriptors')
            [CompletionResult]::new('--max-connections-per-ip', '--max-connections-per-ip', [CompletionResultType]::ParameterName, 'How many connections one address may have; 0 for any number')
            [CompletionResult]::new('--max-waiters', '--max-waiters', [CompletionResultType]::ParameterName, 'How many may wait for one key; 0 for any number')
            [CompletionResult]::new('--read-timeout', '--read-timeout', [CompletionResultType]::ParameterName, 'How long a client may take for a request, and be silent while it neither holds nor waits')
            [CompletionResult]::new('--write-timeout', '--write-timeout', [CompletionResultType]::ParameterName, 'How long a client may take to read an answer; 0 for any time')
            [CompletionResult]::new('--shutdown-timeout', '--shutdown-timeout', [CompletionResultType]::ParameterName, 'How long holders may finish once the server is told to stop; 0 for any time')
            [CompletionResult]::new('--gc-max-idle', '--gc-max-idle', [CompletionResultType]::ParameterName, 'How long a key that nobody uses is remembered')
            [CompletionResult]::new('--auto-release-on-disconnect', '--auto-release-on-disconnect', [CompletionResultType]::ParameterName, 'Release a client''s locks when its connection closes (the default)')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate chain to show, as PEM; turns TLS on')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of the certificate, as PEM')
            [CompletionResult]::new('--tls-client-ca', '--tls-client-ca', [CompletionResultType]::ParameterName, 'Let in only clients with a certificate of this authority, as PEM')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that clients must send; DFLOCKD_AUTH_TOKEN may hold it instead')
            [CompletionResult]::new('--state-dir', '--state-dir', [CompletionResultType]::ParameterName, 'Directory to keep what is held in, over crashes, restarts and upgrades; made if it is not there')
            [CompletionResult]::new('--fsync', '--fsync', [CompletionResultType]::ParameterName, 'When what is written to --state-dir is brought to the disk itself')
            [CompletionResult]::new('--idle-exit', '--idle-exit', [CompletionResultType]::ParameterName, 'Stop when nothing was connected, held or queued for this long')
            [CompletionResult]::new('--log-format', '--log-format', [CompletionResultType]::ParameterName, 'Form of the log on stderr')
            [CompletionResult]::new('--no-auto-release-on-disconnect', '--no-auto-release-on-disconnect', [CompletionResultType]::ParameterName, 'Keep a client''s locks until their lease ends when its connection closes; beats the flag above')
            [CompletionResult]::new('--detach', '--detach', [CompletionResultType]::ParameterName, 'Leave the terminal and the directory it was started from: for a server that a command started')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;config' {
            [CompletionResult]::new('-s', '-s', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--servers', '--servers', [CompletionResultType]::ParameterName, 'Servers: a:6388,b:6388 are shards, dflockd://a:6388,b:6388 a cluster [default: 127.0.0.1:6388]')
            [CompletionResult]::new('--shard', '--shard', [CompletionResultType]::ParameterName, 'Use this shard, counted from 0, whatever the key')
            [CompletionResult]::new('--tls-ca', '--tls-ca', [CompletionResultType]::ParameterName, 'Trust this authority instead of the system''s, as PEM')
            [CompletionResult]::new('--tls-cert', '--tls-cert', [CompletionResultType]::ParameterName, 'Certificate to show, as PEM')
            [CompletionResult]::new('--tls-key', '--tls-key', [CompletionResultType]::ParameterName, 'Private key of that certificate, as PEM')
            [CompletionResult]::new('--tls-name', '--tls-name', [CompletionResultType]::ParameterName, 'Name to expect in the server''s certificate instead of its host name')
            [CompletionResult]::new('--auth-token-file', '--auth-token-file', [CompletionResultType]::ParameterName, 'File with the secret that the server asks for, of mode 600')
            [CompletionResult]::new('--connect-timeout', '--connect-timeout', [CompletionResultType]::ParameterName, 'How long a connection may take, TLS included [default: 5s]')
            [CompletionResult]::new('--connect-retry', '--connect-retry', [CompletionResultType]::ParameterName, 'How long to try again while no server can be reached [default: 0]')
            [CompletionResult]::new('--tls', '--tls', [CompletionResultType]::ParameterName, 'Speak TLS')
            [CompletionResult]::new('--allow-plaintext-token', '--allow-plaintext-token', [CompletionResultType]::ParameterName, 'Send the secret in clear text to other machines too')
            [CompletionResult]::new('--json', '--json', [CompletionResultType]::ParameterName, 'Answer with one JSON object on stdout, failures too')
            [CompletionResult]::new('-q', '-q', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('--quiet', '--quiet', [CompletionResultType]::ParameterName, 'Say nothing of a lock that is busy')
            [CompletionResult]::new('-v', '-v', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('--verbose', '--verbose', [CompletionResultType]::ParameterName, 'Say more on stderr')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'dflock;completions' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'dflock;man' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
