//! TLS towards upstreams: whom to trust.

use std::path::Path;
use std::sync::Arc;

use pingora::protocols::tls::CaType;
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Authorities read from a PEM file.
#[derive(Clone)]
pub struct Authorities {
    /// In the form that Pingora takes.
    pub certificates: Arc<CaType>,
    /// Tells one set of authorities from another.
    pub fingerprint: u64,
}

/// Reads the authorities of a PEM file.
///
/// # Errors
/// Says in a few words why it has none.
pub fn authorities(path: &Path) -> Result<Authorities, String> {
    let pem = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| format!("{} is not PEM: {error}", path.display()))?;
    if found.is_empty() {
        return Err(format!("{} has no certificate", path.display()));
    }
    // Pingora's own parser panics on what is not a certificate, so it is tried here first.
    if found.iter().any(|der| x509_parser::parse_x509_certificate(der).is_err()) {
        return Err(format!("{} has a certificate that cannot be read", path.display()));
    }
    let certificates: Vec<WrappedX509> = found.iter().map(|der| WrappedX509::new(der.to_vec(), parse_x509)).collect();
    Ok(Authorities { certificates: certificates.into(), fingerprint: fingerprint(&pem) })
}

fn fingerprint(pem: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(pem);
    hasher.finish()
}
