//! `[server] tls.cert` and `tls.key`: what the client port shows to clients over TLS.

use tidegate_gateway::tls::{Credentials, Error};

use super::fault::Origin;
use super::settings::Settings;

const CERT: &str = "server.tls.cert";
const KEY: &str = "server.tls.key";

/// Reads both files; none without either setting, and after a fault.
pub(super) fn read(settings: &mut Settings) -> Option<Credentials> {
    let (cert, key) = (settings.text(CERT).map(str::to_owned), settings.text(KEY).map(str::to_owned));
    let (cert, key) = match (cert, key) {
        (None, None) => return None,
        (Some(_), None) => return missing(settings, KEY, CERT),
        (None, Some(_)) => return missing(settings, CERT, KEY),
        // Both are looked at, so that both faults are told.
        (Some(cert), Some(key)) => (file(settings, CERT, &cert), file(settings, KEY, &key)),
    };
    match Credentials::from_pem(&cert?, &key?) {
        Ok(credentials) => Some(credentials),
        Err(Error::Certificate(fault)) => faulty(settings, CERT, fault),
        Err(Error::Key(fault)) => faulty(settings, KEY, fault),
    }
}

fn missing(settings: &mut Settings, path: &'static str, given: &str) -> Option<Credentials> {
    // One that was given and is faulty has its own fault.
    if settings.is_sound(path) {
        settings.fault(path, None, Origin::Default, format!("must be set, too, since {given} is"));
    }
    None
}

fn faulty(settings: &mut Settings, path: &'static str, fault: String) -> Option<Credentials> {
    settings.fault_at(path, fault);
    None
}

fn file(settings: &mut Settings, path: &'static str, name: &str) -> Option<Vec<u8>> {
    std::fs::read(name)
        .map_err(|fault| settings.fault_at(path, format!("must name a file that can be read: {fault}")))
        .ok()
}
