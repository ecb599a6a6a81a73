//! One health check of one endpoint.
//!
//! Connections and plain answers are checked by pingora-load-balancing. What it cannot judge, a
//! body or a gRPC answer, is asked for over one of Pingora's own connections.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddress;
use pingora::upstreams::peer::HttpPeer;
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck, TcpHealthCheck};

use super::endpoint::Endpoint;
use super::health::{HttpProbe, Plan, Probe};
use super::{Upstream, peer};

const AGENT: &str = concat!("pointsman/", env!("CARGO_PKG_VERSION"));
/// Of a body that is looked at, this much is read (bytes).
const BODY_LIMIT: usize = 64 << 10;
/// `ServingStatus.SERVING` of grpc.health.v1.
const SERVING: u64 = 1;

/// Checks one endpoint, again and again.
pub(super) enum Prober {
    /// By pingora-load-balancing.
    Simple(Box<dyn HealthCheck + Send + Sync>),
    /// By looking at the answer's body.
    Asking(Box<Asking>),
}

/// A request whose answer's body is looked at.
pub(super) struct Asking {
    connector: Connector,
    peer: HttpPeer,
    request: RequestHeader,
    body: Bytes,
    expected: Expected,
}

enum Expected {
    Text(HttpProbe, String),
    Serving,
}

impl Prober {
    /// A check as the plan says.
    ///
    /// # Errors
    /// A request that cannot be made from the settings.
    pub fn new(upstream: &Upstream, plan: &Plan, endpoint: &Endpoint) -> pingora::Result<Self> {
        let mut peer = peer::template(upstream, endpoint.address());
        peer.options.read_timeout = Some(plan.timeout);
        peer.options.connection_timeout = Some(plan.timeout);
        match &plan.probe {
            Probe::Tcp => {
                let mut check = TcpHealthCheck::new();
                check.peer_template.options = peer.options;
                check.peer_template.sni = peer.sni;
                Ok(Self::Simple(check))
            }
            Probe::Http(probe) => {
                let request = get(probe, endpoint)?;
                if let Some(text) = &probe.body {
                    let expected = Expected::Text(probe.clone(), text.clone());
                    return Ok(Self::asking(peer, request, Bytes::new(), expected));
                }
                let mut check = HttpHealthCheck::new("", upstream.sni().is_some());
                check.peer_template = peer;
                check.req = request;
                let probe = probe.clone();
                check.validator = Some(Box::new(move |answer| match answer.status.as_u16() {
                    status if probe.accepts(status) => Ok(()),
                    status => pingora::Error::e_explain(pingora::ErrorType::HTTPStatus(status), "health check"),
                }));
                Ok(Self::Simple(Box::new(check)))
            }
            Probe::Grpc(service) => {
                peer.options.set_http_version(2, 2);
                let request = grpc_request(endpoint)?;
                Ok(Self::asking(peer, request, grpc_message(service), Expected::Serving))
            }
        }
    }

    fn asking(peer: HttpPeer, request: RequestHeader, body: Bytes, expected: Expected) -> Self {
        Self::Asking(Box::new(Asking { connector: Connector::new(None), peer, request, body, expected }))
    }

    /// Checks once; the caller limits the time.
    ///
    /// # Errors
    /// Says in a few words why the endpoint is not healthy.
    pub async fn check(&self, endpoint: &Endpoint) -> Result<(), String> {
        match self {
            Self::Simple(check) => {
                let addr = PingoraAddress::Inet(endpoint.address());
                let backend = Backend { addr, weight: 1, ext: http::Extensions::new() };
                check.check(&backend).await.map_err(|error| error.to_string())
            }
            Self::Asking(asking) => {
                let (status, body) = asking.ask().await.map_err(|error| error.to_string())?;
                asking.judge(status, &body)
            }
        }
    }
}

impl Asking {
    async fn ask(&self) -> pingora::Result<(u16, Bytes)> {
        let (mut session, _) = self.connector.get_http_session(&self.peer).await?;
        session.write_request_header(Box::new(self.request.clone())).await?;
        if !self.body.is_empty() {
            session.write_request_body(self.body.clone(), true).await?;
        }
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let status = session.response_header().map_or(0, |header| header.status.as_u16());
        let body = read(&mut session).await?;
        session.shutdown().await;
        Ok((status, body))
    }

    fn judge(&self, status: u16, body: &[u8]) -> Result<(), String> {
        match &self.expected {
            Expected::Text(probe, _) if !probe.accepts(status) => Err(format!("status {status}")),
            Expected::Text(_, text) => {
                let found = body.windows(text.len().max(1)).any(|window| window == text.as_bytes());
                if found || text.is_empty() { Ok(()) } else { Err("the body lacks the expected text".to_owned()) }
            }
            Expected::Serving if status != 200 => Err(format!("status {status}")),
            Expected::Serving => match serving_status(body) {
                Some(SERVING) => Ok(()),
                Some(other) => Err(format!("serving status {other}")),
                None => Err("no serving status".to_owned()),
            },
        }
    }
}

async fn read(session: &mut HttpSession) -> pingora::Result<Bytes> {
    let mut body = BytesMut::new();
    while body.len() < BODY_LIMIT {
        match session.read_response_body().await? {
            Some(part) => body.put_slice(&part[..part.len().min(BODY_LIMIT - body.len())]),
            None => break,
        }
    }
    Ok(body.freeze())
}

fn get(probe: &HttpProbe, endpoint: &Endpoint) -> pingora::Result<RequestHeader> {
    let host = probe.host.as_deref().unwrap_or(endpoint.name());
    let mut request = RequestHeader::build("GET", probe.path.as_bytes(), None)?;
    request.insert_header(HOST, HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static("localhost")))?;
    request.insert_header(USER_AGENT, AGENT)?;
    request.insert_header("Connection", "close")?;
    for (name, value) in &probe.headers {
        request.insert_header(name, value.clone())?;
    }
    Ok(request)
}

fn grpc_request(endpoint: &Endpoint) -> pingora::Result<RequestHeader> {
    let uri = format!("http://{}/grpc.health.v1.Health/Check", endpoint.name());
    let mut request = RequestHeader::build("POST", b"/grpc.health.v1.Health/Check", None)?;
    if let Ok(uri) = uri.parse() {
        request.set_uri(uri);
    }
    request.set_version(http::Version::HTTP_2);
    request.insert_header(CONTENT_TYPE, "application/grpc")?;
    request.insert_header(TE, "trailers")?;
    request.insert_header(USER_AGENT, AGENT)?;
    Ok(request)
}

/// `HealthCheckRequest { service }` as a length-prefixed message of gRPC over HTTP/2.
fn grpc_message(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(message);
    framed.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The field `status` of a `HealthCheckResponse`: its only field, a varint; absent means 0.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (prefix, message) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?) as usize;
    if prefix[0] != 0 || message.len() < length {
        return None;
    }
    let Some((0x08, value)) = message[..length].split_first() else { return (length == 0).then_some(0) };
    let mut status = 0;
    for (index, byte) in value.iter().take(9).enumerate() {
        status |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(status);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_framed() {
        assert_eq!(&grpc_message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_message("a.B")[..], b"\0\0\0\0\x05\x0a\x03a.B");
    }

    #[test]
    fn serving_statuses_are_read() {
        let cases: &[(&[u8], Option<u64>)] = &[
            (b"\0\0\0\0\x02\x08\x01", Some(1)),
            (b"\0\0\0\0\x02\x08\x02", Some(2)),
            (b"\0\0\0\0\0", Some(0)),
            (b"\0\0\0\0\x02\x08", None),
            (b"\x01\0\0\0\x02\x08\x01", None),
            (b"\0\0", None),
            (b"\0\0\0\0\x02\x10\x01", None),
        ];
        for (message, expected) in cases {
            assert_eq!(serving_status(message), *expected, "{message:?}");
        }
    }
}
