//! Frames of a guest: from bytes in a ring to calls.

use super::ring::ServicesRing;
use super::{
    Afterwards, Call, CallState, HEADER, ProtocolError, ROUND, ServiceRequest, ServicesDevice, ServicesState,
};
use hv_abi::io::services::{FrameHeader, FrameKind, Status, WINDOW};
use zerocopy::FromBytes;

impl ServicesRing {
    /// The next frame of the guest, once it is there as a whole.
    fn next_frame(&mut self) -> Result<Option<(FrameKind, FrameHeader, Vec<u8>)>, ProtocolError> {
        let whole = size_of::<FrameHeader>();
        loop {
            let wanted = match FrameHeader::read_from_prefix(&self.incoming) {
                Err(_) => whole,
                Ok((header, _)) => whole + header.len as usize,
            };
            let have = self.incoming.len();
            if have < wanted {
                // Grows by what has come: a length alone makes the host keep nothing.
                let available = self.back.requests.available()? as usize;
                let count = (wanted - have).min(available);
                self.incoming.resize(have + count, 0);
                let popped = self.back.requests.pop(&mut self.incoming[have..])?;
                self.incoming.truncate(have + popped);
                if popped == 0 {
                    return Ok(None);
                }
            }
            let Ok((header, bytes)) = FrameHeader::read_from_prefix(&self.incoming) else { continue };
            let kind = FrameKind::from_number(header.kind).filter(|kind| kind.allows_from_guest(header.len));
            let Some(kind) = kind else {
                let FrameHeader { kind, len, .. } = header;
                return Err(ProtocolError::Frame(format!(
                    "there is no frame of kind {kind} with {len} bytes"
                )));
            };
            if bytes.len() == header.len as usize {
                let frame = (kind, header, bytes.to_vec());
                self.incoming.clear();
                return Ok(Some(frame));
            }
        }
    }
}

impl ServicesDevice {
    /// Takes what the guest has published, as far as it takes what it is told.
    pub(super) fn receive(
        &self,
        state: &mut ServicesState,
        afterwards: &mut Afterwards,
    ) -> Result<(), ProtocolError> {
        let mut taken = 0;
        loop {
            let Some(end) = &mut state.end else { return Ok(()) };
            end.flush()?;
            if end.is_congested() {
                break;
            }
            if taken > ROUND {
                afterwards.again = true;
                break;
            }
            let frame = end.next_frame()?;
            if end.back.requests.release() {
                end.ring.channel.notify();
            }
            match frame {
                Some((kind, header, bytes)) => {
                    taken += size_of::<FrameHeader>() + bytes.len();
                    self.frame(state, kind, header, bytes, afterwards)?;
                }
                None if end.back.requests.wait_for_entries()? => {}
                None => break,
            }
        }
        if !state.writers.is_empty()
            && let Some(end) = &mut state.end
            && end.room_for_data()?.is_some()
        {
            afterwards.wake.append(&mut state.writers);
        }
        Ok(())
    }

    fn frame(
        &self,
        state: &mut ServicesState,
        kind: FrameKind,
        header: FrameHeader,
        bytes: Vec<u8>,
        afterwards: &mut Afterwards,
    ) -> Result<(), ProtocolError> {
        if kind == FrameKind::Open {
            return self.open(state, header, &bytes, afterwards);
        }
        // Of a call that has ended, the guest may not have heard yet.
        let Some(open) = state.calls.get_mut(&header.call) else { return Ok(()) };
        match kind {
            FrameKind::Data => {
                if open.guest_ended {
                    return Err(ProtocolError::Frame("data of a call that it has ended".into()));
                }
                let cost = HEADER + header.len;
                open.window = open.window.checked_sub(cost).ok_or_else(|| {
                    ProtocolError::Frame("it sent more data of a call than it had credit for".into())
                })?;
                if let Some(end) = &state.end {
                    end.ring.counters.went_out(0, u64::from(header.len));
                }
                open.data.push_back(bytes);
                afterwards.wake.extend(open.reader.take());
            }
            FrameKind::End => {
                open.guest_ended = true;
                afterwards.wake.extend(open.reader.take());
            }
            FrameKind::Credit => {
                open.credit = open
                    .credit
                    .checked_add(header.value)
                    .ok_or_else(|| ProtocolError::Frame("its credit of a call is larger than any".into()))?;
                afterwards.wake.extend(open.writer.take());
            }
            FrameKind::Close => {
                let closed = state.calls.remove(&header.call);
                afterwards
                    .wake
                    .extend(closed.into_iter().flat_map(|mut closed| closed.wakers().collect::<Vec<_>>()));
            }
            FrameKind::Open | FrameKind::Answer => {}
        }
        Ok(())
    }

    fn open(
        &self,
        state: &mut ServicesState,
        header: FrameHeader,
        bytes: &[u8],
        afterwards: &mut Afterwards,
    ) -> Result<(), ProtocolError> {
        if state.calls.contains_key(&header.call) {
            return Err(ProtocolError::Frame("it opened a call that is open".into()));
        }
        if let Some(end) = &state.end {
            end.ring.counters.went_out(1, bytes.len() as u64);
        }
        let request = match ServiceRequest::parse(header.code, bytes) {
            Ok(request) => request,
            Err(reason) => return state.end(header.call, Status::Invalid, reason),
        };
        let Some(session) = state.session.clone() else {
            return state.end(
                header.call,
                Status::NoRequest,
                "services are there for requests: there is none yet",
            );
        };
        if !self.admit(&session) {
            return state.end(header.call, Status::Limited, "too many calls are open");
        }
        let open = CallState { window: WINDOW, credit: header.value, ..CallState::default() };
        state.calls.insert(header.call, open);
        afterwards.begin.push(Call {
            device: self.this.clone(),
            epoch: state.epoch,
            number: header.call,
            request,
            session,
            ended: false,
        });
        Ok(())
    }
}
