//! The four rtnetlink requests that `transparent` needs: a policy rule and a route, added and removed. The layout is that of
//! linux/rtnetlink.h and linux/fib_rules.h; a program `ip` is not part of every image.

use super::plan::Family;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};

const NETLINK_ROUTE: i32 = 0;
const HEADER: usize = 16;
/// The loopback device is the first of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Whether an entry is to be there or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Present,
    Absent,
}

/// `ip rule … fwmark MARK lookup TABLE priority PRIORITY`
pub fn rule(entry: Entry, family: Family, mark: u32, table: u32, priority: u32) -> io::Result<()> {
    const FR_ACT_TO_TBL: u8 = 1;
    const FRA_PRIORITY: u16 = 6;
    const FRA_FWMARK: u16 = 10;
    const FRA_TABLE: u16 = 15;
    const FRA_FWMASK: u16 = 16;
    let kind = if entry == Entry::Present { libc::RTM_NEWRULE } else { libc::RTM_DELRULE };
    // struct fib_rule_hdr: family, dst_len, src_len, tos, table, res1, res2, action, flags
    let mut body = vec![address_family(family), 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    for (name, value) in [(FRA_PRIORITY, priority), (FRA_FWMARK, mark), (FRA_FWMASK, u32::MAX), (FRA_TABLE, table)] {
        attribute(&mut body, name, value);
    }
    request(kind, entry, &body)
}

/// `ip route … local default dev lo table TABLE`
pub fn local_default(entry: Entry, family: Family, table: u32) -> io::Result<()> {
    let kind = if entry == Entry::Present { libc::RTM_NEWROUTE } else { libc::RTM_DELROUTE };
    // struct rtmsg: family, dst_len, src_len, tos, table (in the attribute), protocol, scope, type, flags
    let mut body = vec![address_family(family), 0, 0, 0, 0, libc::RTPROT_STATIC, libc::RT_SCOPE_HOST, libc::RTN_LOCAL, 0, 0, 0, 0];
    attribute(&mut body, libc::RTA_TABLE, table);
    attribute(&mut body, libc::RTA_OIF, LOOPBACK_INDEX);
    request(kind, entry, &body)
}

fn address_family(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

fn attribute(body: &mut Vec<u8>, name: u16, value: u32) {
    body.extend_from_slice(&8u16.to_ne_bytes());
    body.extend_from_slice(&name.to_ne_bytes());
    body.extend_from_slice(&value.to_ne_bytes());
}

/// Sends one request and waits for the kernel's answer. What is already as wanted is fine.
fn request(kind: u16, entry: Entry, body: &[u8]) -> io::Result<()> {
    let mut flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
    if entry == Entry::Present {
        flags |= libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    }
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(flags as u16).to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // sequence number and port: one request on a socket needs neither
    message.extend_from_slice(body);

    let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_ROUTE)))?;
    socket.write_all(&message)?;
    let mut answer = [0; 1024];
    let length = socket.read(&mut answer)?;
    // struct nlmsgerr: the header, then a negative errno or 0.
    let code = answer[..length].get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    match code.map(|code| -code) {
        Some(0) => Ok(()),
        Some(libc::EEXIST) if entry == Entry::Present => Ok(()),
        Some(libc::ENOENT | libc::ESRCH) if entry == Entry::Absent => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
