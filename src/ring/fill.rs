//! Buffers that the kernel fills: the promise that it needs, and vectors as the plainest ones. Logs nothing, cannot fail.

/// Octets that the ring may read into: a stable place that the value owns, also when the value is moved.
///
/// # Safety
/// `spare_ptr..spare_ptr+spare` is writable and stays where it is until the value is used again.
#[expect(unsafe_code, reason = "the kernel writes to what an implementation promises")]
pub unsafe trait Fill: 'static {
    /// Start of the writable octets.
    fn spare_ptr(&mut self) -> *mut u8;
    /// How many octets are writable.
    fn spare(&self) -> usize;
    /// Counts octets as filled.
    ///
    /// # Safety
    /// `n` octets from `spare_ptr` have been written.
    unsafe fn filled(&mut self, n: usize);
}

// SAFETY: a vector's spare capacity is its own, on the heap, and moves only when the vector grows.
#[expect(unsafe_code, reason = "the trait is unsafe to implement")]
unsafe impl Fill for Vec<u8> {
    fn spare_ptr(&mut self) -> *mut u8 {
        self.spare_capacity_mut().as_mut_ptr().cast()
    }
    fn spare(&self) -> usize {
        self.capacity() - self.len()
    }
    unsafe fn filled(&mut self, n: usize) {
        let len = self.len() + n;
        // SAFETY: the caller says that `n` octets behind the length have been written.
        unsafe { self.set_len(len) }
    }
}
