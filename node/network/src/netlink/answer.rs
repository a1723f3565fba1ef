//! Reading the kernel's answers, attribute by attribute.

use std::net::Ipv4Addr;

use netlink_packet_route::route::RouteHeader;

use super::{Link, Route};
use crate::Cidr;

/// `IFLA_*`, `RTA_*` of the kernel's headers, where answers are read.
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_IFALIAS: u16 = 20;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

pub(super) struct Answer {
    pub kind: u16,
    pub body: Vec<u8>,
}

pub(crate) struct MessageHeader {
    pub kind: u16,
    pub sequence: u32,
}

/// The first netlink message of a datagram, its body, and what follows.
pub(crate) fn split_message(bytes: &[u8]) -> Option<(MessageHeader, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let body = bytes.get(16..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((MessageHeader { kind, sequence }, body, next))
}

pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

pub(super) fn read_link(answer: &Answer) -> Option<Link> {
    if answer.kind != libc::RTM_NEWLINK {
        return None;
    }
    let mut link = Link {
        index: number(answer.body.get(4..8)?)?,
        ..Link::default()
    };
    for (kind, value) in attributes(answer.body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = number(value)?,
            IFLA_IFALIAS => link.alias = Some(text(value)),
            _ => {}
        }
    }
    Some(link)
}

pub(super) fn read_route(answer: &Answer, protocol: Option<u8>) -> Option<Route> {
    if answer.kind != libc::RTM_NEWROUTE {
        return None;
    }
    let header = answer.body.get(..12)?;
    let (prefix, table, found_protocol) = (header[1], header[4], header[5]);
    if protocol
        .is_some_and(|wanted| wanted != found_protocol || table != RouteHeader::RT_TABLE_MAIN)
    {
        return None;
    }
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let mut gateway = None;
    let mut link = 0;
    let address = |value: &[u8]| <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
    for (kind, value) in attributes(answer.body.get(12..)?) {
        match kind {
            RTA_DST => destination = address(value)?,
            RTA_GATEWAY => gateway = address(value),
            RTA_OIF => link = number(value)?,
            _ => {}
        }
    }
    Some(Route {
        destination: Cidr::new(destination, prefix)?,
        gateway,
        link,
    })
}
