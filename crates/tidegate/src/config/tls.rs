//! `[server] tls.cert` and `tls.key`: what the client port shows to clients over TLS. `[redis] tls.ca`: whom the node believes
//! that it talks to Redis.

use tidegate_gateway::tls::{Credentials, Error};

use super::Tls;
use super::fault::Origin;
use super::settings::Settings;

const CERT: &str = "server.tls.cert";
const KEY: &str = "server.tls.key";
const CA: &str = "redis.tls.ca";

/// Reads both files; none without either setting, and after a fault.
pub(super) fn read(settings: &mut Settings) -> Option<Tls> {
    let (cert, key) = (settings.text(CERT).map(str::to_owned), settings.text(KEY).map(str::to_owned));
    let (cert, key) = match (cert, key) {
        (None, None) => return None,
        (Some(_), None) => return missing(settings, KEY, CERT),
        (None, Some(_)) => return missing(settings, CERT, KEY),
        (Some(cert), Some(key)) => (cert, key),
    };
    // Both are looked at, so that both faults are told.
    let files = (file(settings, CERT, &cert), file(settings, KEY, &key));
    match Credentials::from_pem(&files.0?, &files.1?) {
        Ok(credentials) => Some(Tls { credentials, cert: cert.into(), key: key.into() }),
        Err(Error::Certificate(fault)) => faulty(settings, CERT, fault),
        Err(Error::Key(fault)) => faulty(settings, KEY, fault),
    }
}

/// Reads the file of authorities; none without the setting, and after a fault.
pub(super) fn read_authorities(settings: &mut Settings) -> Option<Vec<u8>> {
    let name = settings.text(CA)?.to_owned();
    if !settings.is_sound("redis.url") {
        return None;
    }
    let is_over_tls = settings.text("redis.url").is_some_and(|url| url.starts_with("rediss://"));
    if !is_over_tls {
        settings.fault_at(CA, "is of no use unless redis.url begins with rediss://".to_owned());
        return None;
    }
    let authorities = file(settings, CA, &name)?;
    match tidegate_redis::check_authorities(&authorities) {
        Ok(()) => Some(authorities),
        Err(fault) => {
            settings.fault_at(CA, fault);
            None
        }
    }
}

fn missing(settings: &mut Settings, path: &'static str, given: &str) -> Option<Tls> {
    // One that was given and is faulty has its own fault.
    if settings.is_sound(path) {
        settings.fault(path, None, Origin::Default, format!("must be set, too, since {given} is"));
    }
    None
}

fn faulty(settings: &mut Settings, path: &'static str, fault: String) -> Option<Tls> {
    settings.fault_at(path, fault);
    None
}

fn file(settings: &mut Settings, path: &'static str, name: &str) -> Option<Vec<u8>> {
    std::fs::read(name)
        .map_err(|fault| settings.fault_at(path, format!("must name a file that can be read: {fault}")))
        .ok()
}
