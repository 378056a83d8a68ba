//! The socket against real peers, plain ones and those of `tokio-rustls`.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

use super::*;
use crate::tls::testing::{VERSIONS, connector, credentials, narrow_pair, secure_pair};

const PATIENCE: Duration = Duration::from_secs(20);

async fn pair() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Socket::new(listener.accept().await.unwrap().0), peer)
}

/// Bytes of which no two neighbourhoods are alike.
fn sample(count: u32) -> Vec<u8> {
    (0..count).flat_map(u32::to_le_bytes).collect()
}

/// Whatever takes longer is stuck.
async fn limited<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

async fn read_in_all_sizes(socket: &Socket) -> Vec<u8> {
    let (mut read, mut size) = (Vec::new(), 1);
    loop {
        // Full buffers, and ones that are larger than what has come.
        size = size % 9_000 + 997;
        let mut buffer = vec![0; size];
        match socket.read(&mut buffer).await.unwrap() {
            0 => return read,
            count => read.extend_from_slice(&buffer[..count]),
        }
    }
}

async fn everything_arrives((socket, mut peer): (Socket, impl AsyncWrite + Unpin)) {
    let sent = sample(100_000);
    let expected = sent.clone();
    let writing = async move {
        for piece in sent.chunks(7_777) {
            peer.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        peer.shutdown().await.unwrap();
        peer
    };
    let (_peer, read) = limited(async { tokio::join!(writing, read_in_all_sizes(&socket)) }).await;
    assert!(read == expected, "{} bytes of {}", read.len(), expected.len());
    assert_eq!(limited(socket.read(&mut [0; 9])).await.unwrap(), 0, "the end stays the end");
}

#[tokio::test]
async fn everything_arrives_whatever_the_size_of_the_buffer() {
    everything_arrives(pair().await).await;
    for version in VERSIONS {
        everything_arrives(secure_pair(version).await).await;
    }
}

async fn late_reader((socket, mut peer): (Socket, impl AsyncRead + Unpin)) {
    let bytes = sample(1 << 20);
    let writing = async {
        for piece in bytes.chunks(100_000) {
            socket.write_all(piece).await.unwrap();
        }
        socket.finish();
    };
    let reading = async {
        let mut read = Vec::new();
        tokio::task::yield_now().await;
        // Over TLS this fails unless a goodbye was said.
        peer.read_to_end(&mut read).await.unwrap();
        read
    };
    let (read, ()) = limited(async { tokio::join!(reading, writing) }).await;
    assert!(read == bytes, "{} bytes of {}", read.len(), bytes.len());
}

#[tokio::test]
async fn a_writer_waits_for_a_peer_that_reads_late() {
    late_reader(pair().await).await;
    for version in VERSIONS {
        late_reader(secure_pair(version).await).await;
    }
}

#[tokio::test]
async fn pieces_of_all_sizes_leave_in_order() {
    for version in VERSIONS {
        let (socket, mut peer) = secure_pair(version).await;
        let sizes = [3, 0, 1, 16_383, 0, 16_384, 16_385, 5, 40_000, 7, 7, 0];
        let bytes = sample(30_000);
        let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
        for size in sizes {
            let (piece, others) = rest.split_at(size);
            pieces.push(IoSlice::new(piece));
            rest = others;
        }
        let total: usize = sizes.iter().sum();
        let writing = async {
            let (mut pieces, mut left) = (&mut pieces[..], total);
            while left > 0 {
                match socket.write_vectored(pieces) {
                    Ok(taken) => {
                        left -= taken;
                        IoSlice::advance_slices(&mut pieces, taken);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        poll_fn(|context| socket.poll_write_ready(context)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            poll_fn(|context| socket.poll_unclog(context)).await.unwrap();
        };
        let mut read = vec![0; total];
        limited(async { tokio::join!(writing, peer.read_exact(&mut read)).1.unwrap() }).await;
        assert!(read == bytes[..total]);
    }
}

/// Writes until the socket is clogged; returns how much it took.
fn clog(socket: &Socket, bytes: &[u8]) -> usize {
    let mut taken = 0;
    while !socket.is_clogged() {
        taken += socket.write(&bytes[taken..]).unwrap();
    }
    taken
}

#[tokio::test]
async fn a_clogged_socket_takes_nothing_and_is_flushed_when_the_peer_reads() {
    let (socket, mut peer) = secure_pair(VERSIONS[0]).await;
    let bytes = sample(1 << 20);
    let taken = clog(&socket, &bytes);
    assert!(taken < bytes.len());
    assert_eq!(socket.write(&bytes[taken..]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(socket.flush().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let mut read = vec![0; taken];
    let unclogged = poll_fn(|context| socket.poll_unclog(context));
    limited(async { tokio::join!(unclogged, peer.read_exact(&mut read)) }).await.0.unwrap();
    assert!(!socket.is_clogged());
    assert!(read == bytes[..taken], "what was taken has left, and nothing else");
    assert!(socket.write(&bytes[taken..]).unwrap() > 0);
}

#[tokio::test]
async fn a_connection_that_is_at_rest_keeps_no_buffer() {
    for version in VERSIONS {
        let (socket, mut peer) = secure_pair(version).await;
        let bytes = sample(40_000);
        let reading = async {
            let mut read = vec![0; bytes.len()];
            peer.write_all(&bytes).await.unwrap();
            peer.flush().await.unwrap();
            peer.read_exact(&mut read).await.unwrap();
        };
        let answering = async {
            let (mut buffer, mut left) = ([0; 777], bytes.len());
            while left > 0 {
                left -= socket.read(&mut buffer).await.unwrap();
            }
            socket.write_all(&bytes).await.unwrap();
        };
        limited(async { tokio::join!(reading, answering) }).await;
        assert_eq!(socket.tls.as_ref().unwrap().session.lock().kept(), 0);
    }
}

#[tokio::test]
async fn a_peer_that_goes_away_without_a_goodbye_has_ended() {
    let (socket, mut peer) = secure_pair(VERSIONS[0]).await;
    peer.write_all(b"last words").await.unwrap();
    let mut tcp = peer.into_inner().0;
    tcp.shutdown().await.unwrap();
    let mut buffer = [0; 100];
    assert_eq!(limited(socket.read(&mut buffer)).await.unwrap(), 10);
    assert_eq!(limited(socket.read(&mut buffer)).await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_no_hello_is_told_so() {
    for garbage in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), &[0x16, 3, 1, 0xff, 0xff, 1], &[0; 64]] {
        let (server, mut peer) = narrow_pair().await;
        peer.write_all(garbage).await.unwrap();
        let refused = limited(Socket::secure(server, credentials().config)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{refused}");
        let mut told = Vec::new();
        // The rest of what it sent was not read, so that this may end in a reset.
        let _ = limited(peer.read_to_end(&mut told)).await;
        assert_eq!(told.first(), Some(&0x15), "an alert");
    }
}

#[tokio::test]
async fn whoever_hangs_up_within_the_handshake_is_refused() {
    let (server, mut peer) = narrow_pair().await;
    peer.write_all(&[0x16, 3, 1, 1, 0]).await.unwrap();
    drop(peer);
    let refused = limited(Socket::secure(server, credentials().config)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::UnexpectedEof, "{refused}");
}

/// A hello must not make the node keep more than it has a reason to be long.
#[tokio::test]
async fn an_endless_hello_is_refused() {
    let (server, mut peer) = narrow_pair().await;
    let flooding = async {
        // Records of a client hello of 64 KB, which the header says it has.
        let mut record = vec![0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xf0];
        record.resize(5 + 0x4000, 0);
        for _ in 0..4 {
            if peer.write_all(&record).await.is_err() {
                break;
            }
            record[5..9].fill(0);
        }
        peer
    };
    let secured = Socket::secure(server, credentials().config);
    let refused = limited(async { tokio::join!(secured, flooding).0 }).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{refused}");
}

#[tokio::test]
async fn a_handshake_and_records_that_come_byte_by_byte_arrive() {
    for version in VERSIONS {
        let (server, client) = narrow_pair().await;
        let (near, far) = tokio::io::duplex(1);
        let (mut far_read, mut far_write) = tokio::io::split(far);
        let (mut tcp_read, mut tcp_write) = client.into_split();
        let relaying = async {
            let out = async {
                let mut byte = [0];
                while far_read.read_exact(&mut byte).await.is_ok() {
                    tcp_write.write_all(&byte).await.unwrap();
                }
                tcp_write.shutdown().await.unwrap();
            };
            let back = tokio::io::copy(&mut tcp_read, &mut far_write);
            tokio::join!(out, back).1.unwrap();
        };
        let connector = connector(version);
        let sent = sample(500);
        let client = async {
            let mut client = connector.connect("localhost".try_into().unwrap(), near).await.unwrap();
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut echoed = Vec::new();
            client.read_to_end(&mut echoed).await.unwrap();
            echoed
        };
        let serving = async {
            let socket = Socket::secure(server, credentials().config).await.unwrap();
            let read = read_in_all_sizes(&socket).await;
            socket.write_all(&read).await.unwrap();
            socket.finish();
        };
        let echoed = limited(async { tokio::join!(client, serving, relaying).0 }).await;
        assert_eq!(echoed, sent);
    }
}

/// A client whose records are sent by hand.
struct Client {
    tcp: TcpStream,
    tls: rustls::ClientConnection,
}

impl Client {
    fn of(peer: TlsStream<TcpStream>) -> Self {
        let (tcp, tls) = peer.into_inner();
        Self { tcp, tls }
    }

    fn records(&mut self, plain: &[u8]) -> Vec<u8> {
        io::Write::write_all(&mut self.tls.writer(), plain).unwrap();
        let mut records = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut records).unwrap();
        }
        records
    }

    async fn receive(&mut self, length: usize) -> Vec<u8> {
        let (mut plain, mut bytes) = (Vec::new(), BytesMut::new());
        while plain.len() < length {
            bytes.clear();
            assert!(self.tcp.read_buf(&mut bytes).await.unwrap() > 0, "the socket hung up");
            let mut records = &bytes[..];
            while !records.is_empty() {
                self.tls.read_tls(&mut records).unwrap();
                self.tls.process_new_packets().unwrap();
            }
            let error = io::Read::read_to_end(&mut self.tls.reader(), &mut plain).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        plain
    }
}

/// rustls wants to see the beginning of what is not complete again, whatever it is asked for.
#[tokio::test]
async fn a_record_that_is_cut_anywhere_does_not_keep_the_socket_from_writing() {
    for version in VERSIONS {
        let (_socket, peer) = secure_pair(version).await;
        let length = Client::of(peer).records(&[0; 8]).len();
        let (socket, peer) = secure_pair(version).await;
        cut_everywhere(socket, Client::of(peer), length).await;
    }
}

async fn cut_everywhere(socket: Socket, mut client: Client, length: usize) {
    for (at, number) in (1..length).zip(0_u8..) {
        if number % 5 == 4 && client.tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3) {
            // New keys, which the record after them is encrypted with.
            client.tls.refresh_traffic_keys().unwrap();
        }
        let records = client.records(&[number; 8]);
        let (begun, rest) = records.split_at(at);
        client.tcp.write_all(begun).await.unwrap();
        let mut buffer = [0; 64];
        let early = tokio::time::timeout(Duration::from_millis(5), socket.read(&mut buffer)).await;
        assert!(early.is_err(), "a record that has not arrived was read");
        socket.write_all(&[number; 3]).await.unwrap();
        assert_eq!(limited(client.receive(3)).await, [number; 3]);
        client.tcp.write_all(rest).await.unwrap();
        assert_eq!(limited(socket.read(&mut buffer)).await.unwrap(), 8);
        assert_eq!(buffer[..8], [number; 8]);
    }
}

#[tokio::test]
async fn a_record_that_was_tampered_with_ends_the_connection_with_an_alert() {
    for version in VERSIONS {
        let (socket, peer) = secure_pair(version).await;
        let mut client = Client::of(peer);
        let mut records = client.records(b"pay 10 to bob");
        *records.last_mut().unwrap() ^= 1;
        client.tcp.write_all(&records).await.unwrap();
        let fault = limited(socket.read(&mut [0; 64])).await.unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::InvalidData);
        assert!(limited(socket.read(&mut [0; 64])).await.is_err());
        assert_eq!(socket.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        socket.finish();
        // Behind the tickets of the handshake.
        let mut told = Vec::new();
        limited(client.tcp.read_to_end(&mut told)).await.unwrap();
        client.tls.read_tls(&mut &told[..]).unwrap();
        let alert = client.tls.process_new_packets().unwrap_err();
        assert!(
            matches!(alert, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac)),
            "{alert}"
        );
    }
}

#[tokio::test]
async fn what_comes_after_a_goodbye_is_thrown_away_whatever_it_is() {
    let (socket, peer) = secure_pair(VERSIONS[0]).await;
    let mut client = Client::of(peer);
    socket.finish();
    client.tcp.write_all(&[7; 5_000]).await.unwrap();
    client.tcp.shutdown().await.unwrap();
    let (mut buffer, mut discarded) = ([0; 512], 0);
    while let read @ 1.. = limited(socket.read(&mut buffer)).await.unwrap() {
        discarded += read;
    }
    assert!(discarded > 0);
    assert_eq!(socket.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_ticket_spares_the_next_connection_the_certificate() {
    let credentials = credentials();
    for version in VERSIONS {
        let connector = connector(version);
        let kind = async || {
            let (server, client) = narrow_pair().await;
            let secured = Socket::secure(server, Arc::clone(&credentials.config));
            let connecting = async {
                let mut client = connector.connect("localhost".try_into().unwrap(), client).await.unwrap();
                // Tickets come behind the handshake.
                client.read_exact(&mut [0; 2]).await.unwrap();
                client.get_ref().1.handshake_kind()
            };
            let serving = async {
                let socket = secured.await.unwrap();
                socket.write_all(b"hi").await.unwrap();
                socket
            };
            limited(async { tokio::join!(connecting, serving).0 }).await
        };
        assert_eq!(kind().await, Some(rustls::HandshakeKind::Full));
        assert_eq!(kind().await, Some(rustls::HandshakeKind::Resumed));
    }
}
