//! One message with at most one file descriptor on a unix socket, the two system calls that only libc has.

#![allow(unsafe_code, reason = "sendmsg, recvmsg and the layout of what they carry beside the bytes")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

/// Room for one descriptor and no more: the kernel closes what does not fit. A union in C; here aligned like its largest part.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

// SAFETY: CMSG_SPACE only computes.
const CONTROL: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as u32) } as usize;
// SAFETY: CMSG_LEN only computes.
const ONE: usize = unsafe { libc::CMSG_LEN(size_of::<libc::c_int>() as u32) } as usize;

/// What came beside the bytes.
#[derive(Debug)]
pub(crate) enum Beside {
    Nothing,
    Descriptor(OwnedFd),
    /// One was sent and could not be taken: this process has too many open.
    Lost,
}

fn header(bytes: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: a msghdr of zeros is an empty one.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = ptr::from_mut(bytes);
    header.msg_iovlen = 1;
    header
}

/// Sends some of `bytes`, and `descriptor` with the first of them.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut header = header(&mut part);
    let mut control = Control([0; CONTROL]);
    if let Some(descriptor) = descriptor {
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL;
        // SAFETY: `control` is aligned and has room for one header with one int, to which CMSG_FIRSTHDR and CMSG_DATA point.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = ONE;
            libc::CMSG_DATA(first).cast::<libc::c_int>().write_unaligned(descriptor.as_raw_fd());
        }
    }
    // SAFETY: `header` points to `part` and `control`, which live through the call; the kernel only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Receives bytes; those that come after a descriptor are left for the next call, so at most one comes with them.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Beside)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = header(&mut part);
    let mut control = Control([0; CONTROL]);
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = ONE;
    // SAFETY: `header` points to `part` (the caller's buffer) and `control`, which the kernel may write for the time of the call.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled in `header`; a first header is whole if there is one. A descriptor that came is ours alone.
    let descriptor = unsafe {
        let first = libc::CMSG_FIRSTHDR(&header);
        let is_one = !first.is_null()
            && (*first).cmsg_level == libc::SOL_SOCKET
            && (*first).cmsg_type == libc::SCM_RIGHTS
            && (*first).cmsg_len as usize >= ONE;
        is_one.then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<libc::c_int>().read_unaligned()))
    };
    match (descriptor, header.msg_flags & libc::MSG_CTRUNC != 0) {
        (Some(_), true) => Err(io::Error::new(io::ErrorKind::InvalidData, "more than one descriptor with one message")),
        (Some(descriptor), false) => Ok((received as usize, Beside::Descriptor(descriptor))),
        (None, true) => Ok((received as usize, Beside::Lost)),
        (None, false) => Ok((received as usize, Beside::Nothing)),
    }
}
