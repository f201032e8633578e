//! Linear memories of instances, which are used again: making one anew is three system calls and a page fault for each page that the
//! guest touches, which was two thirds of what an instance for a single request cost.
//!
//! ```text
//!   new_memory ◄──(spare, all zero)── Spare ◄──reset── Memory is dropped ──(too many, or larger)──► unmapped
//!        └──(none)──► mapped
//! ```
//!
//! A region is address space: so much of it can be used as the memory is long, the rest and the guard behind it cannot, since
//! compiled code relies on a fault there. What a memory held is gone before another one gets its region: pages that are in memory
//! are filled with zeros, all others (that is also those in swap) are given back to the kernel.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Regions that wait for the next instance, of a whole process.
const MOST_SPARE: usize = 16;
/// Bytes that a spare region keeps in memory.
const MOST_KEPT: usize = 64 << 10;
/// A memory that outgrows its region gets so much more than it asks for.
const GROWTH: usize = 1 << 20;
/// Pages that are asked about at once.
const PAGES: usize = 512;

/// Makes an engine's memories.
#[derive(Clone, Default)]
pub(crate) struct Memories(Arc<Mutex<Vec<Region>>>);

/// One instance's memory.
struct Memory {
    /// Nothing only while it is dropped.
    region: Option<Region>,
    size: usize,
    guard: usize,
    /// How long the regions are that can wait for another instance.
    usual: usize,
    spare: Memories,
}

/// Address space of its own.
struct Region {
    base: NonNull<u8>,
    len: usize,
    /// So much of it can be read and written.
    accessible: usize,
}

// SAFETY: a region is plain memory that belongs to whoever owns the value.
unsafe impl Send for Region {}
// SAFETY: through a shared reference only its place and lengths are read.
unsafe impl Sync for Region {}

/// Of this kernel.
fn page() -> usize {
    // SAFETY: only asks.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(64 << 10)
}

impl Region {
    fn map(len: usize) -> io::Result<Region> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: the kernel picks a place where nothing is.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast::<c_void>() != libc::MAP_FAILED => Ok(Region { base, len, accessible: 0 }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn at(&self, offset: usize) -> *mut c_void {
        self.base.as_ptr().wrapping_add(offset).cast()
    }

    /// Makes just the first `len` bytes accessible. What is accessible anew is zero, if it was when it was given up.
    fn set_accessible(&mut self, len: usize) -> io::Result<()> {
        let len = len.checked_next_multiple_of(page()).filter(|len| *len <= self.len).ok_or(io::ErrorKind::OutOfMemory)?;
        let (from, to, protection) = match len >= self.accessible {
            true => (self.accessible, len, libc::PROT_READ | libc::PROT_WRITE),
            false => (len, self.accessible, libc::PROT_NONE),
        };
        // SAFETY: the range lies within this mapping, at multiples of a page.
        if from < to && unsafe { libc::mprotect(self.at(from), to - from, protection) } != 0 {
            return Err(io::Error::last_os_error());
        }
        self.accessible = len;
        Ok(())
    }

    /// Makes all of it zero again.
    fn reset(&mut self) -> io::Result<()> {
        let (mut at, mut kept, page) = (0, 0, page());
        while at < self.accessible {
            let mut pages = [0_u8; PAGES];
            let len = (self.accessible - at).min(PAGES * page);
            // SAFETY: the range lies within this mapping, and there is a byte for each of its pages.
            if unsafe { libc::mincore(self.at(at), len, pages.as_mut_ptr()) } != 0 {
                return Err(io::Error::last_os_error());
            }
            let is_in = |found: &u8| found & 1 == 1;
            for run in pages[..len / page].chunk_by(|a, b| is_in(a) == is_in(b)) {
                let bytes = run.len() * page;
                if is_in(&run[0]) && kept + bytes <= MOST_KEPT {
                    // SAFETY: accessible bytes of a region that nobody else sees.
                    unsafe { std::ptr::write_bytes(self.at(at).cast::<u8>(), 0, bytes) };
                    kept += bytes;
                // SAFETY: likewise; they read as zero afterwards, wherever they were.
                } else if unsafe { libc::madvise(self.at(at), bytes, libc::MADV_DONTNEED) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                at += bytes;
            }
        }
        Ok(())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nobody sees any more.
        unsafe { libc::munmap(self.at(0), self.len) };
    }
}

impl Memories {
    fn region(&self, len: usize) -> io::Result<Region> {
        let spare = || {
            let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let at = spare.iter().rposition(|region| region.len == len)?;
            Some(spare.swap_remove(at))
        };
        spare().map_or_else(|| Region::map(len), Ok)
    }

    fn give_back(&self, mut region: Region) {
        // Full: it is not worth cleaning. What went wrong with one is not used again.
        let is_full = || self.0.lock().unwrap_or_else(PoisonError::into_inner).len() >= MOST_SPARE;
        if !is_full() && region.reset().is_ok() {
            let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if spare.len() < MOST_SPARE {
                spare.push(region);
            }
        }
    }
}

// SAFETY: a region is mapped for `reserved` bytes and the guard behind them, is zero where it is accessible, and just the memory's
// bytes are accessible.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let whole = |bytes: usize| bytes.checked_next_multiple_of(page())?.checked_add(guard);
        let usual = reserved.and_then(whole).unwrap_or_default();
        let make = || {
            let needed = whole(minimum).ok_or(io::ErrorKind::OutOfMemory)?;
            let mut region = self.region(if needed <= usual { usual } else { needed })?;
            region.set_accessible(minimum)?;
            Ok(region)
        };
        let region = make().map_err(|error: io::Error| format!("no memory for an instance: {error}"))?;
        Ok(Box::new(Memory { region: Some(region), size: minimum, guard, usual, spare: self.clone() }))
    }
}

// SAFETY: `as_ptr` is the beginning of a region of which `byte_size` bytes are accessible, and which stays in place while the memory
// does not grow beyond `byte_capacity`.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        self.region.as_ref().map_or(0, |region| region.len - self.guard)
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        if size > self.byte_capacity() {
            let room = size.checked_add(GROWTH).and_then(|bytes| bytes.checked_next_multiple_of(page())?.checked_add(self.guard));
            let mut larger = Region::map(room.ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?)?;
            larger.set_accessible(size)?;
            if let Some(old) = &self.region {
                // SAFETY: both are accessible for as many bytes, and are two mappings.
                unsafe { std::ptr::copy_nonoverlapping(old.base.as_ptr(), larger.base.as_ptr(), self.size) };
            }
            self.let_go();
            self.region = Some(larger);
        } else if let Some(region) = &mut self.region {
            region.set_accessible(size)?;
        }
        self.size = size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.region.as_ref().map_or(std::ptr::null_mut(), |region| region.base.as_ptr())
    }
}

impl Memory {
    fn let_go(&mut self) {
        if let Some(region) = self.region.take()
            && region.len == self.usual
        {
            self.spare.give_back(region);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARD: usize = 64 << 10;

    fn memory(memories: &Memories, size: usize) -> Memory {
        let whole = (1 << 20) + GUARD;
        let mut region = memories.region(whole).unwrap();
        region.set_accessible(size).unwrap();
        Memory { region: Some(region), size, guard: GUARD, usual: whole, spare: memories.clone() }
    }

    fn bytes(memory: &mut Memory) -> &mut [u8] {
        // SAFETY: accessible, and borrowed with the memory.
        unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.size) }
    }

    /// What the kernel allows within the memory's region, as (bytes, `rw` or `--`).
    fn allowed(memory: &Memory) -> Vec<(usize, String)> {
        let region = memory.region.as_ref().unwrap();
        let (start, end) = (region.at(0) as usize, region.at(region.len) as usize);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let lines = maps.lines().filter_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (from, to) = range.split_once('-')?;
            let [from, to] = [from, to].map(|text| usize::from_str_radix(text, 16).unwrap().clamp(start, end));
            (from < to).then(|| (to - from, rest[..2].to_owned()))
        });
        lines.collect()
    }

    #[test]
    fn a_region_that_is_used_again_holds_nothing_of_before_and_no_more_than_it_may() {
        let memories = Memories::default();
        for (size, touched) in [(1 << 20, 1), (128 << 10, 7), (1 << 20, 256), (64 << 10, 3), (512 << 10, 40), (0, 0)] {
            let mut own = memory(&memories, size);
            assert!(bytes(&mut own).iter().all(|byte| *byte == 0), "{size}");
            assert_eq!(allowed(&own).iter().filter(|(_, may)| may == "rw").map(|(len, _)| len).sum::<usize>(), size);
            let pages = size / page();
            for number in 0..touched {
                // Here and there, its ends among them.
                let at = (number * 37 % pages.max(1)) * page();
                bytes(&mut own)[at] = 1;
                bytes(&mut own)[size - 1 - at] = 2;
            }
            drop(own);
            assert_eq!(memories.0.lock().unwrap().len(), 1, "one is enough");
        }
    }

    #[test]
    fn what_grows_beyond_its_region_takes_all_with_it() {
        let memories = Memories::default();
        let mut own = memory(&memories, 64 << 10);
        bytes(&mut own)[1000] = 7;
        let place = own.as_ptr();
        own.grow_to(1 << 20).unwrap();
        assert_eq!((own.as_ptr(), bytes(&mut own)[1000]), (place, 7), "it stays in place");
        bytes(&mut own)[(1 << 20) - 1] = 8;
        own.grow_to(3 << 20).unwrap();
        assert_ne!(own.as_ptr(), place);
        assert_eq!((bytes(&mut own)[1000], bytes(&mut own)[(1 << 20) - 1], own.size), (7, 8, 3 << 20));
        assert!(bytes(&mut own)[1 << 20..].iter().all(|byte| *byte == 0));
        assert!(own.grow_to(usize::MAX - 10).is_err());
        drop(own);
        // The first one waits for another instance, clean; the larger one is gone.
        assert_eq!(memories.0.lock().unwrap().len(), 1);
        assert!(bytes(&mut memory(&memories, 1 << 20)).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn few_wait() {
        let memories = Memories::default();
        let all: Vec<_> = (0..3 * MOST_SPARE).map(|_| memory(&memories, 64 << 10)).collect();
        drop(all);
        assert_eq!(memories.0.lock().unwrap().len(), MOST_SPARE);
    }
}
