//! Bytes read as decisions, for targets whose inputs are plays: any bytes are one, and fewer bytes are a shorter one.

pub struct Choices<'a> {
    left: &'a [u8],
}

impl<'a> Choices<'a> {
    pub fn new(input: &'a [u8]) -> Choices<'a> {
        Choices { left: input }
    }

    pub fn is_over(&self) -> bool {
        self.left.is_empty()
    }

    /// From 0 up to, not including, `end`; 0 when all is read.
    pub fn below(&mut self, end: usize) -> usize {
        let Some((first, left)) = self.left.split_first() else { return 0 };
        self.left = left;
        usize::from(*first) % end
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// So many of the bytes themselves, or what is left of them.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, left) = self.left.split_at(count.min(self.left.len()));
        self.left = left;
        taken
    }
}
