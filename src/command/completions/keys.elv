    # The keys that holders of this user have.
    fn keys {|verb|
        if (has-external dflock) { e:dflock holders --keys --for $verb 2>/dev/null | from-lines }
    }
