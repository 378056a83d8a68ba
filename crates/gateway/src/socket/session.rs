//! TLS of one connection, without the connection: ciphertext comes and goes through closures.
//!
//! rustls's *unbuffered* interface, since its other one keeps 4 KB of every connection to read into, as much as all the rest
//! together. Here what arrives is decrypted in a buffer that all connections of a thread share, and only what is cut by the
//! end of a read is kept; what leaves is encrypted in another, and only what the kernel did not take is kept: less than one
//! record, since nothing is encrypted while something is left.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::{Buf as _, BytesMut};
use rustls::ServerConfig;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

/// Most plaintext that has been taken and not left: what TLS lets one record hold.
pub(crate) const UNSENT_BYTES_MAX: usize = 16 * 1024;

/// What a record is longer than its plaintext, at most 29 bytes, and the change of keys that may stand before it.
const OVERHEAD_BYTES_MAX: usize = 512;

/// What is read at once, and the most that is kept of what is not complete: two records of the largest size, or the largest
/// hello that anybody has a reason to send.
const ARRIVED_BYTES_MAX: usize = 36 * 1024;

/// What all sessions of a thread share.
struct Scratch {
    arrived: Box<[u8]>,
    gathered: Box<[u8]>,
    leaving: Box<[u8]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        arrived: vec![0; ARRIVED_BYTES_MAX].into(),
        gathered: vec![0; UNSENT_BYTES_MAX].into(),
        leaving: vec![0; UNSENT_BYTES_MAX + OVERHEAD_BYTES_MAX].into(),
    });
}

/// One connection's TLS.
pub(super) struct Session {
    tls: UnbufferedServerConnection,
    /// The beginning of what has not arrived completely. rustls remembers where in it it stands, so that it must be shown it
    /// each time.
    partial: Vec<u8>,
    /// Decrypted and not taken yet, by who reads in small pieces.
    plain: BytesMut,
    /// Encrypted and not taken by the kernel yet.
    unsent: BytesMut,
    /// The peer sends nothing more.
    has_ended: bool,
    /// We send nothing more.
    is_finished: bool,
    /// The peer broke the protocol, or the connection broke.
    is_lost: bool,
}

impl Session {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self {
            tls: UnbufferedServerConnection::new(config)?,
            partial: Vec::new(),
            plain: BytesMut::new(),
            unsent: BytesMut::new(),
            has_ended: false,
            is_finished: false,
            is_lost: false,
        })
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(super) fn is_clogged(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Bytes that are set aside for what was cut or did not fit.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.partial.capacity() + self.plain.capacity() + self.unsent.capacity()
    }

    /// Takes what was decrypted before and did not fit.
    pub(super) fn take(&mut self, bytes_max: usize, put: impl FnOnce(&[u8])) -> usize {
        let fits = bytes_max.min(self.plain.len());
        put(&self.plain[..fits]);
        self.plain.advance(fits);
        if self.plain.is_empty() {
            self.plain = BytesMut::new();
        }
        fits
    }

    /// Receives once. The plaintext in it, nothing at the end; `None` if what arrived holds none.
    pub(super) fn poll_read(
        &mut self,
        buffer: &mut [u8],
        receive: impl FnOnce(&mut [u8]) -> Poll<io::Result<usize>>,
        send: impl Fn(&[u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<Option<usize>>> {
        if self.has_ended {
            return Poll::Ready(Ok(Some(0)));
        }
        if self.is_lost {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let kept = self.partial.len();
            scratch.arrived[..kept].copy_from_slice(&self.partial);
            let received = ready!(receive(&mut scratch.arrived[kept..]))?;
            if received == 0 {
                // Without a word of TLS about it, which is no matter: a WebSocket has its own last word, and HTTP its lengths.
                self.has_ended = true;
                return Poll::Ready(Ok(Some(0)));
            }
            if self.is_finished {
                // Nobody wants to know. rustls must not see it either: it says to a peer that breaks the protocol that it
                // did, which after a goodbye it takes for a defect of its own.
                return Poll::Ready(Ok(Some(received.min(buffer.len()))));
            }
            let decrypted = self.decrypt(&mut scratch.arrived[..kept + received], buffer);
            // The answer to a hello, or an alert. What of it does not leave does so with the next write.
            let flushed = self.flush(send);
            let read = decrypted?;
            match flushed {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ => {}
            }
            Poll::Ready(Ok((read > 0 || self.has_ended).then_some(read)))
        })
    }

    fn decrypt(&mut self, arrived: &mut [u8], buffer: &mut [u8]) -> io::Result<usize> {
        let (mut read, plain) = (0, &mut self.plain);
        let take = |piece: &[u8]| {
            let (fits, rest) = piece.split_at(piece.len().min(buffer.len() - read));
            buffer[read..read + fits.len()].copy_from_slice(fits);
            read += fits.len();
            plain.extend_from_slice(rest);
        };
        let looked = look(&mut self.tls, arrived, &mut self.unsent, take, |_| ());
        let looked = looked.map_err(|error| {
            self.is_lost = true;
            io::Error::new(io::ErrorKind::InvalidData, error)
        })?;
        self.has_ended |= looked.has_ended;
        let rest = &arrived[looked.done..];
        if rest.len() == ARRIVED_BYTES_MAX {
            self.is_lost = true;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too large"));
        }
        // An exact fit, and no allocation when there is nothing to keep.
        self.partial = rest.to_vec();
        Ok(read)
    }

    /// Takes what can leave now: all of it, or as much as fits in records that the kernel takes but for the rest of the last.
    ///
    /// # Errors
    /// `WouldBlock` when nothing was taken.
    pub(super) fn write(
        &mut self,
        pieces: &[IoSlice<'_>],
        send: impl Fn(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.is_lost || self.is_finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.flush(&send)?;
        let (mut taken, mut pieces) = (0, Pieces { pieces, offset: 0 });
        SCRATCH.with_borrow_mut(|scratch| {
            while !self.is_clogged() {
                let piece = pieces.next(&mut scratch.gathered);
                if piece.is_empty() {
                    break;
                }
                let encrypt = |mut traffic: WriteTraffic<'_, _>| traffic.encrypt(piece, &mut scratch.leaving);
                let length = self.encrypted(encrypt)?;
                taken += piece.len();
                self.leave(&scratch.leaving[..length], &send)?;
            }
            Ok(taken)
        })
    }

    /// Lets leave what the kernel did not take before.
    ///
    /// # Errors
    /// `WouldBlock` when some of it stays.
    pub(super) fn flush(&mut self, send: impl Fn(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match send(&self.unsent) {
                Ok(sent) => self.unsent.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) => {
                    self.is_lost = true;
                    self.unsent = BytesMut::new();
                    return Err(error);
                }
            }
            if self.unsent.is_empty() {
                self.unsent = BytesMut::new();
            }
        }
        Ok(())
    }

    /// Says to the peer that nothing more comes, if it takes that.
    pub(super) fn finish(&mut self, send: impl Fn(&[u8]) -> io::Result<usize>) {
        // What does not leave now is given up.
        let _ = self.flush(&send);
        if self.is_finished || self.is_lost || self.is_clogged() || self.is_handshaking() {
            self.is_finished = true;
            return;
        }
        let mut goodbye = [0; OVERHEAD_BYTES_MAX];
        let notify = |mut traffic: WriteTraffic<'_, _>| traffic.queue_close_notify(&mut goodbye);
        if let Ok(length) = self.encrypted(notify) {
            let _ = self.leave(&goodbye[..length], &send);
        }
        self.is_finished = true;
    }

    /// Has rustls encrypt something, behind what it has to say itself.
    fn encrypted(
        &mut self,
        encrypt: impl FnOnce(WriteTraffic<'_, ServerConnectionData>) -> Result<usize, EncryptError>,
    ) -> io::Result<usize> {
        let plain = &mut self.plain;
        let take = |piece: &[u8]| plain.extend_from_slice(piece);
        let looked = look(&mut self.tls, &mut self.partial, &mut self.unsent, take, encrypt);
        let length = looked.map_err(io::Error::other).and_then(|looked| {
            self.has_ended |= looked.has_ended;
            self.partial.drain(..looked.done);
            let encrypted = looked.writable.ok_or(io::ErrorKind::NotConnected)?;
            encrypted.map_err(io::Error::other)
        });
        self.is_lost |= length.is_err();
        length
    }

    /// Sends a record, and keeps what of it does not leave.
    fn leave(&mut self, record: &[u8], send: impl Fn(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        if self.unsent.is_empty() {
            match send(record) {
                Ok(sent) if sent == record.len() => return Ok(()),
                Ok(sent) => self.unsent.extend_from_slice(&record[sent..]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent.extend_from_slice(record);
                }
                Err(error) => {
                    self.is_lost = true;
                    return Err(error);
                }
            }
            return Ok(());
        }
        self.unsent.extend_from_slice(record);
        match self.flush(send) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

/// What rustls made of what arrived.
struct Looked<T> {
    /// So much of it is dealt with.
    done: usize,
    /// The peer has said that it sends nothing more.
    has_ended: bool,
    /// What the caller did when something could be encrypted. Nothing can before the handshake is over.
    writable: Option<T>,
}

/// Shows rustls what has arrived until it wants more. What it has to say itself goes behind what is `unsent`, also when it
/// fails: then that is an alert.
fn look<T>(
    tls: &mut UnbufferedServerConnection,
    arrived: &mut [u8],
    unsent: &mut BytesMut,
    mut take: impl FnMut(&[u8]),
    writable: impl FnOnce(WriteTraffic<'_, ServerConnectionData>) -> T,
) -> Result<Looked<T>, rustls::Error> {
    let mut looked = Looked { done: 0, has_ended: false, writable: None };
    loop {
        let UnbufferedStatus { mut discard, state } = tls.process_tls_records(&mut arrived[looked.done..]);
        let mut is_starved = false;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    take(record.payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, unsent),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => looked.has_ended = true,
            Ok(ConnectionState::WriteTraffic(traffic)) => {
                looked.writable = Some(writable(traffic));
                looked.done += discard;
                return Ok(looked);
            }
            // A handshake that wants more, or the end on both sides. Early data is not offered.
            Ok(_) => is_starved = true,
            Err(error) => {
                looked.done += discard;
                // No more than that: it must not look at what has failed again.
                while tls.wants_write() {
                    let UnbufferedStatus { discard, state } =
                        tls.process_tls_records(&mut arrived[looked.done..]);
                    match state {
                        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, unsent),
                        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                            while traffic.next_record().is_some() {}
                        }
                        _ => break,
                    }
                    looked.done += discard;
                }
                return Err(error);
            }
        }
        looked.done += discard;
        if is_starved {
            return Ok(looked);
        }
    }
}

fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, unsent: &mut BytesMut) {
    // Asked with no room it says how much it needs.
    let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) else { return };
    let start = unsent.len();
    unsent.resize(start + needed.required_size, 0);
    let encoded = data.encode(&mut unsent[start..]);
    debug_assert!(encoded.is_ok_and(|written| written == needed.required_size));
}

/// Plaintext in pieces, given away a record at a time.
struct Pieces<'a> {
    pieces: &'a [IoSlice<'a>],
    /// How much of the first has been given away.
    offset: usize,
}

impl<'a> Pieces<'a> {
    /// What the next record holds: part of a piece, or several that are put together in `room`; nothing at the end.
    fn next<'b>(&mut self, room: &'b mut [u8]) -> &'b [u8]
    where
        'a: 'b,
    {
        let Some((first, others)) = self.pieces.split_first() else { return &[] };
        let rest = &first[self.offset..];
        if others.is_empty() || rest.len() >= room.len() {
            let piece = &rest[..rest.len().min(room.len())];
            self.skip(piece.len());
            return piece;
        }
        let mut filled = 0;
        while let Some(first) = self.pieces.first()
            && filled < room.len()
        {
            let rest = &first[self.offset..];
            let fits = rest.len().min(room.len() - filled);
            room[filled..filled + fits].copy_from_slice(&rest[..fits]);
            filled += fits;
            self.skip(fits);
        }
        &room[..filled]
    }

    fn skip(&mut self, bytes: usize) {
        self.offset += bytes;
        while let Some(first) = self.pieces.first()
            && self.offset >= first.len()
        {
            self.offset -= first.len();
            self.pieces = &self.pieces[1..];
        }
    }
}
