//! Whatever is published as a request, in JSON or MessagePack: no panic, an event to broadcast is MessagePack, and what is
//! decoded encodes to what decodes to the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_core::{Ask, Flags, Namespace, RequestId};
use tidegate_redis::requests::{decode_request, encode_request};

fuzz_target!(|payload: &[u8]| {
    let payload = Bytes::copy_from_slice(payload);
    for namespace in ["/", "/chat"].map(Namespace::from) {
        let Ok(mut request) = decode_request(&namespace, &payload) else { continue };
        assert_eq!(request.namespace, namespace);
        if let Ask::Broadcast { publication, .. } = &mut request.ask {
            assert_eq!(publication.namespace, namespace);
            assert_eq!(tidegate_msgpack::check(&publication.data), Ok(()));
            // No request says more.
            publication.flags = Flags { volatile: publication.flags.volatile, ..Flags::default() };
        }

        let asker = request.asker.as_ref();
        let uid = asker.and_then(|asker| asker.uid.as_deref()).unwrap_or("u");
        let node = asker.and_then(|asker| asker.node.as_ref());
        let id: Option<&RequestId> = asker.map(|asker| &asker.id);
        let encoded = Bytes::from(encode_request(uid, node, id, &request.ask));
        let again = decode_request(&namespace, &encoded).expect("our own request");
        assert_eq!(again.ask, request.ask);
        assert_eq!(again.asker.is_some(), asker.is_some());
        if let Some(again) = &again.asker {
            assert_eq!((again.uid.as_deref(), again.node.as_ref(), Some(&again.id)), (Some(uid), node, id));
            assert!(!again.only_owner, "our own requests are not those of older peers");
        }
    }
});
