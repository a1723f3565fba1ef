//! Forgetting tracked UDP flows whose endpoint is gone, over ctnetlink: the
//! `conntrack` tool is not needed.

use std::net::Ipv4Addr;

use crate::NetworkError;
use crate::netfilter::{Messages, NLM_F_ACK, NLM_F_DUMP, Netfilter};
use crate::netlink::attributes;

/// linux/netfilter/nfnetlink_conntrack.h.
const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const NESTED: u16 = libc::NLA_F_NESTED as u16;
const UDP: u8 = 17;

/// A tracked flow: where the client sent to, and who is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpFlow {
    pub client: Ipv4Addr,
    pub client_port: u16,
    pub destination: Ipv4Addr,
    pub destination_port: u16,
    pub answering: Ipv4Addr,
    pub answering_port: u16,
}

/// Forgets the flows that `stale` picks; returns how many. The next packet of
/// such a flow meets the rules as they are then.
pub fn forget_udp(stale: impl Fn(&UdpFlow) -> bool) -> Result<usize, NetworkError> {
    let mut netfilter =
        Netfilter::open().map_err(NetworkError::netlink("open a connection tracking socket"))?;
    let mut found: Vec<Vec<u8>> = Vec::new();
    let mut request = Messages::default();
    let family = libc::AF_INET as u8;
    request.message(
        NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET,
        NLM_F_DUMP,
        family,
        0,
        |_| {},
    );
    netfilter
        .dump(&request, |body| {
            if let Some((flow, original)) = body.get(4..).and_then(read_flow)
                && stale(&flow)
            {
                found.push(original.to_vec());
            }
        })
        .map_err(NetworkError::netlink("list the tracked connections"))?;
    let mut forgotten = 0;
    for original in &found {
        let mut request = Messages::default();
        request.message(
            NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE,
            NLM_F_ACK,
            family,
            0,
            |bytes| {
                crate::netfilter::attribute(bytes, CTA_TUPLE_ORIG | NESTED, original);
            },
        );
        match netfilter.transact(&request, request.sequence) {
            Ok(()) => forgotten += 1,
            // It timed out in between.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(NetworkError::netlink("forget a tracked connection")(error)),
        }
    }
    Ok(forgotten)
}

/// The flow, if it is UDP, and the bytes of its original tuple, by which the
/// kernel finds it again.
fn read_flow(body: &[u8]) -> Option<(UdpFlow, &[u8])> {
    let (_, original) = attributes(body).find(|(kind, _)| *kind == CTA_TUPLE_ORIG)?;
    let (_, reply) = attributes(body).find(|(kind, _)| *kind == CTA_TUPLE_REPLY)?;
    let sent = read_tuple(original)?;
    let answer = read_tuple(reply)?;
    let flow = UdpFlow {
        client: sent.source,
        client_port: sent.source_port,
        destination: sent.destination,
        destination_port: sent.destination_port,
        answering: answer.source,
        answering_port: answer.source_port,
    };
    Some((flow, original))
}

struct Tuple {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    source_port: u16,
    destination_port: u16,
}

fn read_tuple(bytes: &[u8]) -> Option<Tuple> {
    let part = |wanted: u16| {
        attributes(bytes)
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    let (addresses, ports) = (part(CTA_TUPLE_IP)?, part(CTA_TUPLE_PROTO)?);
    let address = |wanted: u16| -> Option<Ipv4Addr> {
        let (_, value) = attributes(addresses).find(|(kind, _)| *kind == wanted)?;
        <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
    };
    let number = |wanted: u16| {
        attributes(ports)
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    if number(CTA_PROTO_NUM)?.first() != Some(&UDP) {
        return None;
    }
    let port = |wanted: u16| number(wanted)?.try_into().ok().map(u16::from_be_bytes);
    Some(Tuple {
        source: address(CTA_IP_V4_SRC)?,
        destination: address(CTA_IP_V4_DST)?,
        source_port: port(CTA_PROTO_SRC_PORT)?,
        destination_port: port(CTA_PROTO_DST_PORT)?,
    })
}
