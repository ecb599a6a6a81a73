//! A name server that answers with what it was told, over UDP and TCP on one port.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};

/// A real DNS server on a port of its own; stops when dropped.
///
/// A name it was not told of does not exist; one without records of the type asked for gets an empty answer.
pub struct DnsServer {
    pub addr: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    task: JoinHandle<()>,
}

/// How a server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// With what it was told.
    #[default]
    Ok,
    /// With SERVFAIL.
    ServFail,
    /// That no name exists.
    NxDomain,
    /// Not at all.
    Silent,
    /// That every name exists, without records.
    Empty,
    /// With a reply that is cut in the middle.
    Garbage,
}

#[derive(Default)]
struct Zone {
    records: HashMap<Name, Vec<Record>>,
    mode: Mode,
    /// Modes of single types, before the mode of all.
    modes: HashMap<RecordType, Mode>,
    queries: Vec<(Name, RecordType)>,
}

impl DnsServer {
    /// A server that knows no name yet.
    pub async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            match TcpListener::bind(udp.local_addr().unwrap()).await {
                Ok(tcp) => break (udp, tcp),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
            }
        };
        let addr = udp.local_addr().unwrap();
        let zone = Arc::<Mutex<Zone>>::default();
        let task = tokio::spawn(serve(udp, tcp, Arc::clone(&zone)));
        Self { addr, zone, task }
    }

    /// Gives a name these records, and no others, with a TTL in seconds.
    pub fn set(&self, name: &str, ttl: u32, records: impl IntoIterator<Item = RData>) {
        let name = absolute(name);
        let records = records.into_iter().map(|data| Record::from_rdata(name.clone(), ttl, data)).collect();
        self.zone().records.insert(name, records);
    }

    /// Forgets a name.
    pub fn remove(&self, name: &str) {
        self.zone().records.remove(&absolute(name));
    }

    /// Answers this way from now on.
    pub fn fail(&self, mode: Mode) {
        self.zone().mode = mode;
    }

    /// Answers queries for records of one type this way from now on.
    pub fn fail_type(&self, kind: RecordType, mode: Mode) {
        self.zone().modes.insert(kind, mode);
    }

    /// Queries received, repeated ones too.
    pub fn queries(&self) -> usize {
        self.zone().queries.len()
    }

    /// Queries received for a name.
    pub fn queries_for(&self, name: &str) -> usize {
        let name = absolute(name);
        self.zone().queries.iter().filter(|(asked, _)| *asked == name).count()
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A and AAAA records.
pub fn addresses<const N: usize>(addresses: [&str; N]) -> [RData; N] {
    addresses.map(|address| RData::from(address.parse::<IpAddr>().unwrap()))
}

/// An SRV record.
pub fn service(priority: u16, weight: u16, port: u16, host: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, absolute(host)))
}

/// A CNAME record.
pub fn alias(host: &str) -> RData {
    RData::CNAME(CNAME(absolute(host)))
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    name
}

async fn serve(udp: UdpSocket, tcp: TcpListener, zone: Arc<Mutex<Zone>>) {
    let mut connections = JoinSet::new();
    let mut query = [0; 4096];
    loop {
        tokio::select! {
            Ok((length, client)) = udp.recv_from(&mut query) => {
                if let Some(reply) = reply(&query[..length], &zone, false) {
                    drop(udp.send_to(&reply, client).await);
                }
            }
            Ok((stream, _)) = tcp.accept() => {
                connections.spawn(serve_once(stream, Arc::clone(&zone)));
            }
        }
    }
}

/// Answers one query and closes.
async fn serve_once(mut stream: TcpStream, zone: Arc<Mutex<Zone>>) -> io::Result<()> {
    let mut query = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut query).await?;
    match reply(&query, &zone, true) {
        Some(reply) => {
            stream.write_u16(reply.len().try_into().unwrap()).await?;
            stream.write_all(&reply).await
        }
        None => std::future::pending().await,
    }
}

/// The reply to a query, or `None` to keep silent; what is too long for UDP says so, and no more.
fn reply(query: &[u8], zone: &Mutex<Zone>, tcp: bool) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).unwrap();
    let (mode, found) = zone.lock().unwrap_or_else(PoisonError::into_inner).look_up(&query);
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.add_queries(query.queries.clone());
    match mode {
        Mode::Silent => return None,
        Mode::ServFail => reply.metadata.response_code = ResponseCode::ServFail,
        Mode::NxDomain => reply.metadata.response_code = ResponseCode::NXDomain,
        Mode::Empty => {}
        Mode::Ok | Mode::Garbage => match found {
            Some(records) => reply.answers = records,
            None => reply.metadata.response_code = ResponseCode::NXDomain,
        },
    }
    let mut bytes = reply.to_vec().unwrap();
    if mode == Mode::Garbage {
        bytes.truncate(bytes.len() - 3);
    } else if !tcp && bytes.len() > query.max_payload().into() {
        bytes = reply.truncate().to_vec().unwrap();
    }
    Some(bytes)
}

impl Zone {
    /// Notes a query, and finds how to answer it and with what.
    fn look_up(&mut self, query: &Message) -> (Mode, Option<Vec<Record>>) {
        let question = &query.queries[0];
        let kind = question.query_type();
        let name = question.name().clone();
        self.queries.push((name.clone(), kind));
        let mode = self.modes.get(&kind).copied().unwrap_or(self.mode);
        (mode, self.answer(&name, kind))
    }

    /// The records of a name, after the aliases that lead to them.
    fn answer(&self, name: &Name, kind: RecordType) -> Option<Vec<Record>> {
        let records = self.records.get(name)?;
        let mut found: Vec<_> = records.iter().filter(|record| record.record_type() == kind).cloned().collect();
        let alias = records.iter().find(|record| record.record_type() == RecordType::CNAME);
        if let Some(alias @ Record { data: RData::CNAME(target), .. }) = alias.filter(|_| found.is_empty()) {
            found = self.answer(&target.0, kind)?;
            found.insert(0, alias.clone());
        }
        Some(found)
    }
}
