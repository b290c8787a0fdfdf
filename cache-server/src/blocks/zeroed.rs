//! Arrays that begin as zeros and can become zeros again, with no memory behind them.

use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An array of its own pages. The kernel backs those that were written.
#[derive(Debug)]
pub(super) struct Zeroed<T> {
    map: MmapMut,
    len: usize,
    items: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> Zeroed<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// When so much address space cannot be had.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let bytes = (len * size_of::<T>()).max(1);
        let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
        Ok(Self { map, len, items: PhantomData })
    }

    /// Makes zeros of a range, and gives its memory back where it is whole pages.
    pub(super) fn clear(&mut self, range: Range<usize>) {
        let (from, to) = (range.start * size_of::<T>(), range.end * size_of::<T>());
        let page = rustix::param::page_size();
        let pages = from.next_multiple_of(page)..to / page * page;
        if pages.is_empty() {
            self.map[from..to].fill(0);
            return;
        }
        self.map[from..pages.start].fill(0);
        self.map[pages.end..to].fill(0);
        let (advice, len) = (UncheckedAdvice::DontNeed, pages.len());
        // SAFETY: the pages are this array's, which is borrowed mutably, and read as zeros afterwards:
        // that is what the caller asks for.
        if unsafe { self.map.unchecked_advise_range(advice, pages.start, len) }.is_err() {
            self.map[pages].fill(0);
        }
    }
}

#[cfg(test)]
impl<T> Zeroed<T> {
    /// Memory behind the array, in bytes.
    pub(super) fn resident(&self) -> usize {
        let page = rustix::param::page_size();
        let mut pages = vec![0_u8; self.map.len().div_ceil(page)];
        let start = self.map.as_ptr().cast_mut().cast();
        // SAFETY: the whole mapping, and room for one byte for each of its pages.
        let done = unsafe { libc::mincore(start, self.map.len(), pages.as_mut_ptr()) };
        assert_eq!(done, 0);
        pages.iter().filter(|&&page| page & 1 != 0).count() * page
    }
}

impl<T: FromBytes + IntoBytes + Immutable> Deref for Zeroed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let bytes = &self.map[..self.len * size_of::<T>()];
        <[T]>::ref_from_bytes(bytes).expect("whole items on pages of their own")
    }
}

impl<T: FromBytes + IntoBytes + Immutable> DerefMut for Zeroed<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes = &mut self.map[..self.len * size_of::<T>()];
        <[T]>::mut_from_bytes(bytes).expect("whole items on pages of their own")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_is_cleared_is_zero_and_its_neighbours_are_not() {
        let mut array = Zeroed::<u64>::new(5000).unwrap();
        assert!(array.iter().all(|&item| item == 0));
        array.fill(7);
        array.clear(100..3001);
        for (n, &item) in array.iter().enumerate() {
            assert_eq!(item, if (100..3001).contains(&n) { 0 } else { 7 }, "{n}");
        }
    }
}
