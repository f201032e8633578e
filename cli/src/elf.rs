//! Reads of a program's ELF headers what decides whether the layer can be preloaded into it. Pure: bytes come from a closure,
//! so that tests need no file.

use std::io;

use thiserror::Error;

/// What the dynamic loader and the layer have to know about a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// The dynamic loader (`PT_INTERP`); a static program has none.
    pub loader: Option<String>,
    /// Built by the Go tool chain, whose programs call the kernel themselves, past the C library.
    pub go: bool,
}

/// Why this is no program that this machine's build of the layer fits into.
#[derive(Debug, Error)]
pub enum ElfError {
    /// Does not begin as ELF does.
    #[error("it is no ELF program")]
    NotElf,
    /// 32 bit, another byte order or another processor.
    #[error("it is built for another kind of processor ({0})")]
    Foreign(String),
    /// Headers that contradict each other.
    #[error("its ELF headers are broken")]
    Broken,
    /// The file could not be read.
    #[error("{0}")]
    Read(#[from] io::Error),
}

pub const MAGIC: &[u8; 4] = b"\x7fELF";

/// `e_machine` of this build.
const MACHINE: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
/// Longest loader path and longest note segment that are looked at; real ones are far below.
const MAX_LOADER: u64 = 4096;
const MAX_NOTES: u64 = 64 << 10;

/// Inspects a program; `read_at` fills the buffer from that offset, or fails.
pub fn inspect(read_at: impl Fn(u64, &mut [u8]) -> io::Result<()>) -> Result<Elf, ElfError> {
    let mut header = [0; HEADER];
    read_at(0, &mut header).map_err(short_is(ElfError::NotElf))?;
    if &header[..4] != MAGIC {
        return Err(ElfError::NotElf);
    }
    let machine = u16_at(&header, 18);
    // EI_CLASS 2: 64 bit; EI_DATA 1: little endian.
    if header[4] != 2 || header[5] != 1 || machine != MACHINE {
        return Err(ElfError::Foreign(describe(&header)));
    }
    let (table, size, count) = (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56));
    if usize::from(size) != PROGRAM_HEADER {
        return Err(ElfError::Broken);
    }
    let mut elf = Elf { loader: None, go: false };
    for index in 0..u64::from(count) {
        let mut entry = [0; PROGRAM_HEADER];
        let at = table.checked_add(index * PROGRAM_HEADER as u64).ok_or(ElfError::Broken)?;
        read_at(at, &mut entry).map_err(short_is(ElfError::Broken))?;
        let (kind, offset, length) = (u32_at(&entry, 0), u64_at(&entry, 8), u64_at(&entry, 32));
        let segment = |limit: u64| -> Result<Vec<u8>, ElfError> {
            let mut bytes = vec![0; length.min(limit) as usize];
            read_at(offset, &mut bytes).map_err(short_is(ElfError::Broken))?;
            Ok(bytes)
        };
        match kind {
            PT_INTERP if length > MAX_LOADER => return Err(ElfError::Broken),
            PT_INTERP => elf.loader = Some(String::from_utf8_lossy(&segment(MAX_LOADER)?).trim_end_matches('\0').to_owned()),
            PT_NOTE => elf.go |= has_go_note(&segment(MAX_NOTES)?),
            _ => {}
        }
    }
    Ok(elf)
}

/// Walks a note segment: name size, description size, type, then name and description, each padded to four bytes.
fn has_go_note(mut notes: &[u8]) -> bool {
    while notes.len() >= 12 {
        let (name, description) = (u32_at(notes, 0) as usize, u32_at(notes, 4) as usize);
        if notes[12..].starts_with(b"Go\0") && name >= 3 {
            return true;
        }
        let padded = |length: usize| length.checked_next_multiple_of(4);
        let Some(next) = padded(name).zip(padded(description)).and_then(|(a, b)| a.checked_add(b)?.checked_add(12)) else { return false };
        notes = notes.get(next..).unwrap_or_default();
    }
    false
}

fn describe(header: &[u8]) -> String {
    let bits = if header[4] == 1 { "32 bit" } else { "64 bit" };
    let machine = if header[5] == 2 { u16::from_be_bytes([header[18], header[19]]) } else { u16_at(header, 18) };
    let name = match machine {
        3 => "x86",
        8 => "MIPS",
        21 => "PowerPC",
        22 => "S/390",
        40 => "ARM",
        62 => "x86-64",
        183 => "AArch64",
        243 => "RISC-V",
        _ => return format!("{bits}, ELF machine {machine}"),
    };
    format!("{bits} {name}")
}

/// A file that ends too early is the user's to see as something else than a read error.
fn short_is(meaning: ElfError) -> impl FnOnce(io::Error) -> ElfError {
    move |error| if error.kind() == io::ErrorKind::UnexpectedEof { meaning } else { ElfError::Read(error) }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Elf, ElfError> {
        inspect(|at, buffer| {
            let at = usize::try_from(at).map_err(|_| io::ErrorKind::UnexpectedEof)?;
            let end = at.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes.get(at..end).ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    /// A program of these segments: header, table, then each segment's bytes.
    fn program(segments: &[(u32, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&MACHINE.to_le_bytes());
        file[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
        file[54..56].copy_from_slice(&(PROGRAM_HEADER as u16).to_le_bytes());
        file[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        let mut offset = HEADER + segments.len() * PROGRAM_HEADER;
        for (kind, bytes) in segments {
            let mut entry = [0; PROGRAM_HEADER];
            entry[..4].copy_from_slice(&kind.to_le_bytes());
            entry[8..16].copy_from_slice(&(offset as u64).to_le_bytes());
            entry[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            file.extend(entry);
            offset += bytes.len();
        }
        for (_, bytes) in segments {
            file.extend(*bytes);
        }
        file
    }

    const GNU_THEN_GO: &[u8] = b"\x04\0\0\0\x05\0\0\0\x03\0\0\0GNU\0abcde\0\0\0\x04\0\0\0\x01\0\0\0\x04\0\0\0Go\0\0x\0\0\0";

    #[test]
    fn a_loader_makes_a_program_dynamic() {
        let dynamic = read(&program(&[(1, b"code"), (PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0")])).unwrap();
        assert_eq!(dynamic, Elf { loader: Some("/lib64/ld-linux-x86-64.so.2".into()), go: false });
        assert_eq!(read(&program(&[(1, b"code")])).unwrap(), Elf { loader: None, go: false });
    }

    #[test]
    fn a_go_program_is_known_by_its_note() {
        assert!(read(&program(&[(PT_NOTE, GNU_THEN_GO)])).unwrap().go);
        assert!(!read(&program(&[(PT_NOTE, &GNU_THEN_GO[..24])])).unwrap().go);
    }

    #[test]
    fn another_machine_is_named() {
        let mut foreign = program(&[]);
        foreign[18] = 40;
        foreign[4] = 1;
        assert!(matches!(read(&foreign), Err(ElfError::Foreign(what)) if what == "32 bit ARM"));
    }

    #[test]
    fn this_very_test_is_a_dynamic_program() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = read(&bytes).unwrap();
        assert!(elf.loader.is_some_and(|loader| loader.contains("ld-linux")) && !elf.go);
    }

    /// Whatever a file holds, it is read within bounds and without a panic.
    #[test]
    fn cut_off_and_damaged_files_are_errors_or_programs_but_never_a_panic() {
        let whole = program(&[(PT_NOTE, GNU_THEN_GO), (PT_INTERP, b"/lib/ld.so\0")]);
        for length in 0..whole.len() {
            let _ = read(&whole[..length]);
        }
        for position in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[position] = value;
                let _ = read(&damaged);
            }
        }
        assert!(matches!(read(b"#!/bin/sh\n"), Err(ElfError::NotElf)));
        assert!(matches!(read(&whole[..HEADER]), Err(ElfError::Broken)));
    }
}
