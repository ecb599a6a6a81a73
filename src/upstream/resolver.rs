//! Names to addresses, with the time to live of the answer.
//!
//! Nothing is cached here: every call asks, and the caller keeps the answer for as long as it holds. Name servers are
//! asked in the order of `/etc/resolv.conf`; the next one only when the one before failed, so that a public server
//! never contradicts an internal one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use tokio::time::{Instant, timeout_at};

/// The longest a lookup takes, over all name servers and search domains.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// The shortest time an answer holds: a TTL of zero must not become a query per request.
pub const MIN_TTL: Duration = Duration::from_secs(1);

/// The longest time an answer holds; also that of an answer from `/etc/hosts`, which has no TTL.
pub const MAX_TTL: Duration = Duration::from_mins(5);

/// The most records of one answer; those that sort last are left out.
pub const MAX_RECORDS: usize = 256;

/// Name servers used of `/etc/resolv.conf`; the C library stops there too.
const MAX_SERVERS: usize = 3;

/// Aliases followed to services, one behind the other.
const MAX_ALIASES: usize = 8;

/// Asks the name servers; cheap to clone.
#[derive(Clone)]
pub struct Resolver {
    /// One client per name server, in order: hickory alone would take a SERVFAIL of one for the answer of all.
    servers: Arc<[TokioResolver]>,
    /// Appended to names without a dot, in order.
    search: Arc<[Name]>,
    hosts: Arc<Hosts>,
}

/// What was found, and how long it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// Sorted, without duplicates, never empty and at most [`MAX_RECORDS`].
    pub records: Vec<T>,
    /// Whether all was found: not if one of the two families of addresses could not be asked for.
    pub whole: bool,
    /// The shortest TTL on the way to the records, within [`MIN_TTL`] and [`MAX_TTL`].
    pub ttl: Duration,
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Lower is asked first.
    pub priority: u16,
    /// The share among those of one priority.
    pub weight: u16,
    /// Where the service listens.
    pub port: u16,
    /// The target in lower case, without a trailing dot.
    pub host: String,
}

/// Why a lookup found nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The name does not exist.
    #[error("no such name")]
    NoSuchName,
    /// The name exists, but not with records of this type.
    #[error("the name has no such records")]
    NoRecords,
    /// Nobody knows: the name servers failed or kept silent. What was known before still stands.
    #[error("lookup failed: {0}")]
    Failed(String),
}

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `/etc/resolv.conf` is missing, malformed or names no server.
    #[error("cannot use /etc/resolv.conf: {0}")]
    ResolvConf(#[source] NetError),
    /// `/etc/hosts` exists and cannot be read.
    #[error("cannot read /etc/hosts: {0}")]
    Hosts(#[source] io::Error),
    /// The client of this name server cannot be made.
    #[error("cannot use the name server {server}: {source}")]
    Server {
        /// The server's address.
        server: SocketAddr,
        /// What hickory says.
        source: NetError,
    },
}

impl Resolver {
    /// Asks `server` alone, or else goes by `/etc/hosts` and `/etc/resolv.conf`.
    ///
    /// The files are read here and never again. The `options` of `/etc/resolv.conf` are not used.
    ///
    /// # Errors
    ///
    /// When no server is given and the files do not name one.
    pub fn new(server: Option<SocketAddr>) -> Result<Self, SetupError> {
        if let Some(server) = server {
            return Self::over(&[server], Vec::new(), Hosts::default());
        }
        let (config, _) = system_conf::read_system_conf().map_err(SetupError::ResolvConf)?;
        let hosts = match Hosts::from_system() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Hosts::default(),
            read => read.map_err(SetupError::Hosts)?,
        };
        Self::over(&servers(&config), search(&config), hosts)
    }

    /// Finds the addresses of a host, A and AAAA together.
    ///
    /// A name without a dot is tried below each search domain first. An address is its own answer. When one of the two
    /// types fails, what the other one found is the answer.
    ///
    /// # Errors
    ///
    /// [`Failure::Failed`] when neither found anything and one of them might have.
    pub async fn addresses(&self, host: &str) -> Result<Answer<IpAddr>, Failure> {
        if let Ok(address) = host.parse() {
            return Ok(Answer { records: vec![address], whole: true, ttl: MAX_TTL });
        }
        if let Some(answer) = self.known(&absolute(host)?) {
            return Ok(answer);
        }
        let deadline = Instant::now() + LOOKUP_TIMEOUT;
        let mut failure = Failure::NoSuchName;
        for name in candidates(host, &self.search)? {
            match self.addresses_of(&name, deadline).await {
                Err(negative @ (Failure::NoSuchName | Failure::NoRecords)) => failure = failure.or(negative),
                done => return done,
            }
        }
        Err(failure)
    }

    /// Finds the services of a name such as `_http._tcp.example.com`; search domains are not applied.
    ///
    /// A target of `.`, which says that the service is decidedly not available (RFC 2782), is no service.
    ///
    /// # Errors
    ///
    /// When there are none, or no server says.
    pub async fn services(&self, name: &str) -> Result<Answer<Service>, Failure> {
        let deadline = Instant::now() + LOOKUP_TIMEOUT;
        let mut name = absolute(name)?;
        let mut lookups = Vec::new();
        loop {
            let negative = match self.ask(&name, RecordType::SRV, deadline).await {
                Ok(lookup) => {
                    lookups.push(lookup);
                    return answer(&lookups, service);
                }
                Err(failed @ Failure::Failed(_)) => return Err(failed),
                Err(negative) => negative,
            };
            // hickory-resolver 0.26 follows aliases to addresses, but misses services behind them.
            let alias = self.ask(&name, RecordType::CNAME, deadline).await.map_err(|failure| failure.or(negative))?;
            name = target(&alias).filter(|_| lookups.len() < MAX_ALIASES).ok_or(Failure::NoRecords)?;
            lookups.push(alias);
        }
    }

    /// What `/etc/hosts` says; a name in there is asked for nowhere else, as in the C library.
    fn known(&self, name: &Name) -> Option<Answer<IpAddr>> {
        let queries = [RecordType::A, RecordType::AAAA].map(|kind| Query::query(name.clone(), kind));
        let lookups: Vec<_> = queries.iter().filter_map(|query| self.hosts.lookup_static_host(query)).collect();
        answer(&lookups, RData::ip_addr).ok()
    }

    async fn addresses_of(&self, name: &Name, deadline: Instant) -> Result<Answer<IpAddr>, Failure> {
        let [a, aaaa] = [RecordType::A, RecordType::AAAA].map(|kind| self.ask(name, kind, deadline));
        match tokio::join!(a, aaaa) {
            (Ok(a), Ok(aaaa)) => answer(&[a, aaaa], RData::ip_addr),
            // One lost packet must not take half of the addresses away.
            (Ok(found), Err(Failure::Failed(_))) | (Err(Failure::Failed(_)), Ok(found)) => {
                answer(&[found], RData::ip_addr).map(|answer| Answer { whole: false, ..answer })
            }
            (Ok(found), Err(_)) | (Err(_), Ok(found)) => answer(&[found], RData::ip_addr),
            (Err(a), Err(aaaa)) => Err(a.or(aaaa)),
        }
    }

    /// Asks one server after another until one knows, be it that there is nothing.
    async fn ask(&self, name: &Name, kind: RecordType, deadline: Instant) -> Result<Lookup, Failure> {
        let asking = async {
            let mut failure = Failure::Failed("no name server".to_owned());
            for server in self.servers.iter() {
                match server.lookup(name.clone(), kind).await.map_err(Failure::from) {
                    Err(failed @ Failure::Failed(_)) => failure = failed,
                    known => return known,
                }
            }
            Err(failure)
        };
        let late = || Failure::Failed(format!("no answer within {LOOKUP_TIMEOUT:?}"));
        timeout_at(deadline, asking).await.unwrap_or_else(|_| Err(late()))
    }

    fn over(servers: &[SocketAddr], search: Vec<Name>, hosts: Hosts) -> Result<Self, SetupError> {
        let share = LOOKUP_TIMEOUT / servers.len().clamp(1, MAX_SERVERS) as u32;
        let servers =
            servers.iter().take(MAX_SERVERS).map(|server| client(*server, share)).collect::<Result<_, _>>()?;
        Ok(Self { servers, search: search.into(), hosts: Arc::new(hosts) })
    }
}

impl Failure {
    /// What two failures say together: the less certain of them.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (failed @ Self::Failed(_), _) | (_, failed @ Self::Failed(_)) => failed,
            (Self::NoRecords, _) | (_, Self::NoRecords) => Self::NoRecords,
            (Self::NoSuchName, Self::NoSuchName) => Self::NoSuchName,
        }
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        if error.is_nx_domain() {
            Self::NoSuchName
        } else if error.is_no_records_found() {
            Self::NoRecords
        } else {
            Self::Failed(error.to_string())
        }
    }
}

/// A client of one name server that has `share` to answer.
fn client(server: SocketAddr, share: Duration) -> Result<TokioResolver, SetupError> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let config = ResolverConfig::from_parts(
        None,
        Vec::new(),
        vec![NameServerConfig::new(server.ip(), true, connections.into())],
    );
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    // Within this time hickory sends a lost packet again every third of a second, at most twice.
    options.timeout = share;
    options.attempts = 0;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build().map_err(|source| SetupError::Server { server, source })
}

fn servers(config: &ResolverConfig) -> Vec<SocketAddr> {
    let servers = config.name_servers().iter();
    servers.flat_map(|server| server.connections.first().map(|first| (server.ip, first.port).into())).collect()
}

/// The `search` domains, or else the host's own domain.
fn search(config: &ResolverConfig) -> Vec<Name> {
    if config.search().is_empty() { config.domain().cloned().into_iter().collect() } else { config.search().to_vec() }
}

/// The names to try for a host, in order.
fn candidates(host: &str, search: &[Name]) -> Result<Vec<Name>, Failure> {
    let name = absolute(host)?;
    if host.contains('.') || name.is_localhost() {
        return Ok(vec![name]);
    }
    let below = search.iter().filter_map(|domain| name.clone().append_domain(domain).ok());
    Ok(below.chain([name.clone()]).collect())
}

fn absolute(host: &str) -> Result<Name, Failure> {
    let invalid = || Failure::Failed(format!("{host:?} is not a name"));
    let mut name = Name::from_ascii(host).map_err(|_| invalid())?;
    name.set_fqdn(true);
    if name.is_root() { Err(invalid()) } else { Ok(name) }
}

fn answer<T: Ord>(lookups: &[Lookup], record: impl Fn(&RData) -> Option<T>) -> Result<Answer<T>, Failure> {
    // Aliases on the way count: their TTL bounds that of the records they lead to.
    let answers = || lookups.iter().flat_map(Lookup::answers);
    let mut records: Vec<T> = answers().filter_map(|answer| record(&answer.data)).collect();
    records.sort_unstable();
    records.dedup();
    records.truncate(MAX_RECORDS);
    if records.is_empty() {
        return Err(Failure::NoRecords);
    }
    let ttl = answers().map(|answer| Duration::from_secs(answer.ttl.into())).min().unwrap_or(MIN_TTL);
    Ok(Answer { records, whole: true, ttl: ttl.clamp(MIN_TTL, MAX_TTL) })
}

fn target(alias: &Lookup) -> Option<Name> {
    alias.answers().iter().find_map(|answer| match &answer.data {
        RData::CNAME(target) => Some(target.0.clone()),
        _ => None,
    })
}

fn service(data: &RData) -> Option<Service> {
    let RData::SRV(srv) = data else { return None };
    if srv.target.is_root() {
        return None;
    }
    let host = srv.target.to_lowercase().to_ascii().trim_end_matches('.').to_owned();
    Some(Service { priority: srv.priority, weight: srv.weight, port: srv.port, host })
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::Record;
    use tokio::net::UdpSocket;

    use super::*;

    #[test]
    fn search_domains_go_before_a_name_without_a_dot_only() {
        let search = ["a.test", "b.test."].map(|domain| Name::from_ascii(domain).unwrap());
        let table: [(&str, &[&str]); 5] = [
            ("web", &["web.a.test.", "web.b.test.", "web."]),
            ("web.", &["web."]),
            ("web.shop", &["web.shop."]),
            ("web.shop.", &["web.shop."]),
            ("localhost", &["localhost."]),
        ];
        for (host, expected) in table {
            let names: Vec<_> = candidates(host, &search).unwrap().iter().map(Name::to_ascii).collect();
            assert_eq!(names, expected, "{host}");
        }
    }

    #[test]
    fn of_two_failures_the_less_certain_stands() {
        let failed = || Failure::Failed("late".to_owned());
        let table = [
            (Failure::NoSuchName, Failure::NoSuchName, Failure::NoSuchName),
            (Failure::NoSuchName, Failure::NoRecords, Failure::NoRecords),
            (Failure::NoSuchName, failed(), failed()),
            (Failure::NoRecords, failed(), failed()),
        ];
        for (one, other, expected) in table {
            assert_eq!(one.clone().or(other.clone()), expected);
            assert_eq!(other.or(one), expected);
        }
    }

    #[tokio::test]
    async fn the_hosts_file_goes_before_the_servers() {
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf("10.0.0.1 web Web.test # comment\n10.0.0.2 web.test\n".as_bytes()).unwrap();
        let server = server(|_| Ok([10, 9, 9, 9])).await;
        let resolver = Resolver::over(&[server], vec![Name::from_ascii("a.test").unwrap()], hosts).unwrap();
        for (host, records) in [("WEB", vec![[10, 0, 0, 1]]), ("web.test.", vec![[10, 0, 0, 1], [10, 0, 0, 2]])] {
            let records = records.into_iter().map(IpAddr::from).collect();
            assert_eq!(resolver.addresses(host).await, Ok(Answer { records, whole: true, ttl: MAX_TTL }), "{host}");
        }
    }

    #[tokio::test]
    async fn a_name_without_a_dot_is_found_below_a_search_domain() {
        let server = server(|name| match name {
            "web.b.test." => Ok([10, 0, 0, 1]),
            _ => Err(ResponseCode::NXDomain),
        });
        let search = ["a.test.", "b.test."].map(|domain| Name::from_ascii(domain).unwrap());
        let resolver = Resolver::over(&[server.await], search.into(), Hosts::default()).unwrap();
        assert_eq!(resolver.addresses("web").await.unwrap().records, [IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(resolver.addresses("web.").await, Err(Failure::NoSuchName));
        assert_eq!(resolver.addresses("shop").await, Err(Failure::NoSuchName));
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_one_fails_only() {
        let sound = server(|_| Ok([10, 0, 0, 1])).await;
        let empty = server(|_| Err(ResponseCode::NXDomain)).await;
        let broken = server(|_| Err(ResponseCode::ServFail)).await;
        let refusing = server(|_| Err(ResponseCode::Refused)).await;
        let found = Ok(vec![IpAddr::from([10, 0, 0, 1])]);
        let table: [(&[SocketAddr], _); 5] = [
            (&[broken, sound], found.clone()),
            (&[silence(), refusing, sound], found.clone()),
            (&[sound, empty], found),
            (&[empty, sound], Err(Failure::NoSuchName)),
            (&[broken, empty], Err(Failure::NoSuchName)),
        ];
        for (servers, expected) in table {
            let resolver = Resolver::over(servers, Vec::new(), Hosts::default()).unwrap();
            assert_eq!(resolver.addresses("web.test").await.map(|answer| answer.records), expected, "{servers:?}");
        }
    }

    #[tokio::test]
    async fn three_silent_servers_take_no_longer_than_one() {
        let resolver = Resolver::over(&[silence(), silence(), silence()], Vec::new(), Hosts::default()).unwrap();
        let start = Instant::now();
        assert!(matches!(resolver.addresses("web").await, Err(Failure::Failed(_))));
        assert!(start.elapsed() < LOOKUP_TIMEOUT + Duration::from_millis(200));
    }

    /// A name server that has one address for a name, or a code.
    async fn server(answer: fn(&str) -> Result<[u8; 4], ResponseCode>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let question = query.queries[0].clone();
                let name = question.name().clone();
                let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
                match answer(&name.to_ascii()) {
                    Ok(address) if question.query_type() == RecordType::A => {
                        reply.add_answer(Record::from_rdata(name, 30, IpAddr::from(address).into()));
                    }
                    Ok(_) => {}
                    Err(code) => reply.metadata.response_code = code,
                }
                reply.add_query(question);
                socket.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
            }
        });
        addr
    }

    /// A port where nobody answers.
    fn silence() -> SocketAddr {
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }
}
