            # A key with other characters would need quotes.
            dflock holders --keys --for @VERB@ 2>$null | Where-Object { $_ -match '^[\w./:%+,-]+$' } | ForEach-Object {
                [CompletionResult]::new($_, $_, [CompletionResultType]::ParameterValue, 'A key that a holder has')
            }
