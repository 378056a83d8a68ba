//! Whatever is published as a broadcast: no panic, what it holds is MessagePack, and what is decoded encodes to what
//! decodes to the same, by way of a publication as well.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_core::{Flags, Namespace};
use tidegate_msgpack::check;
use tidegate_redis::adapter::Envelope;

fuzz_target!(|payload: &[u8]| {
    let Ok(envelope) = Envelope::decode(payload) else { return };
    for value in [envelope.uid, envelope.flags_raw, envelope.data] {
        assert_eq!(check(value), Ok(()));
    }
    let encoded = envelope.encode();
    let again = Envelope::decode(&encoded).expect("our own payload");
    assert_eq!(again, envelope);
    assert_eq!(again.encode(), encoded);

    let uid = envelope.uid;
    let namespace = Namespace::from(envelope.namespace);
    let publication = envelope.into_publication(namespace.clone());
    // The gateway's own events are only ever that.
    if publication.flags.presence && publication.flags != (Flags { presence: true, ..Flags::default() }) {
        return;
    }
    let encoded = Envelope::of(&publication, uid).encode();
    let again = Envelope::decode(&encoded).expect("our own payload");
    assert_eq!((again.uid, again.namespace), (uid, namespace.as_str()));
    assert_eq!(again.into_publication(namespace), publication);
});
