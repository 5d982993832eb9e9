# The keys that holders of this user have; the last argument is the verb they are for.
_dflock_keys() {
    local -a keys
    keys=("${(@f)$(dflock holders --keys --for "${@[-1]}" 2>/dev/null)}")
    keys=("${(@)keys:#}")
    compadd "${@[1,-2]}" -a keys
}
