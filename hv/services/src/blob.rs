//! Blobs: bytes of any size, which pass through in pieces.

use crate::binding::{OpenError, folder};
use crate::files::Files;
use crate::folder::{self as files_of, Folder, NewFile};
use crate::list::Page;
use crate::names::Names;
use crate::rate::Rate;
use crate::refusal::Refusal;
use crate::s3::S3Blobs;
use crate::spec::{BlobPlace, BlobSpec, Limits};
use crate::store::admit;
use hv_abi::io::services::{Answer, Condition, Operation};
use hv_core::device::services::{Call, ServiceRequest};
use std::sync::Arc;

/// Bytes that are read from a file at once.
const PIECE: u64 = 32 << 10;

/// Blobs, for all functions that were given them.
pub(crate) struct Blobs {
    place: Place,
    files: Files,
    limits: Limits,
    rate: Rate,
}

enum Place {
    Folder(Arc<Folder>),
    S3(Box<S3Blobs>),
}

impl Blobs {
    pub(crate) fn open(spec: &BlobSpec, files: &Files, names: &Names) -> Result<Blobs, OpenError> {
        let place = match &spec.place {
            BlobPlace::Folder(path) => Place::Folder(folder(files, path, spec.limits.bytes)?),
            BlobPlace::S3(s3) => Place::S3(Box::new(S3Blobs::new(&spec.name, s3, names)?)),
        };
        let rate = Rate::new(spec.limits.operations);
        Ok(Blobs { place, files: files.clone(), limits: spec.limits.clone(), rate })
    }

    /// Carries out a call of one of the operations of blobs.
    pub(crate) async fn carry_out(&self, call: &Call) -> Result<(), Refusal> {
        let request = call.request();
        admit(request, &self.limits, &self.rate)?;
        match &self.place {
            Place::Folder(folder) => self.in_folder(call, folder).await,
            Place::S3(s3) => in_s3(call, s3).await,
        }
    }

    async fn in_folder(&self, call: &Call, folder: &Arc<Folder>) -> Result<(), Refusal> {
        let request = call.request();
        match request.operation {
            Operation::BlobGet => self.send_file(call, folder).await,
            Operation::BlobPut => self.receive_file(call, folder).await,
            Operation::BlobDelete => {
                let (folder, key) = (folder.clone(), request.key.clone());
                self.files.run(move || folder.delete(&key, Condition::Always, 0)).await
            }
            _ => {
                let (folder, ServiceRequest { key, first, after, .. }) = (folder.clone(), request.clone());
                let page = self.files.run(move || folder.list(&key, Page::new(first, &after))).await?;
                Ok(call.send(&page.to_bytes()).await?)
            }
        }
    }

    async fn send_file(&self, call: &Call, folder: &Arc<Folder>) -> Result<(), Refusal> {
        let ServiceRequest { key, first, second, .. } = call.request().clone();
        let folder = folder.clone();
        let (file, size) = self.files.run(move || folder.file(&key)).await?;
        call.answer(Answer { version: 0, size });
        let end = first.saturating_add(second).min(size);
        let (mut at, mut file) = (first, file);
        while at < end {
            let len = PIECE.min(end - at) as usize;
            let piece;
            (file, piece) = self
                .files
                .run(move || {
                    let piece = files_of::read(&file, at, len);
                    (file, piece)
                })
                .await;
            let piece = piece?;
            if piece.is_empty() {
                // Somebody has made the file shorter.
                break;
            }
            at += piece.len() as u64;
            call.send(&piece).await?;
        }
        Ok(())
    }

    async fn receive_file(&self, call: &Call, folder: &Arc<Folder>) -> Result<(), Refusal> {
        let ServiceRequest { key, second, .. } = call.request().clone();
        let folder = folder.clone();
        let file = self.files.run(move || folder.begin(&key, second)).await?;
        let mut file = Unfinished { file: Some(file), files: self.files.clone() };
        while let Some(frame) = call.data().await? {
            let mut open = file.take();
            let written;
            (open, written) = self
                .files
                .run(move || {
                    let written = open.write(&frame);
                    (open, written)
                })
                .await;
            file.file = Some(open);
            written?;
        }
        let file = file.take();
        self.files.run(move || file.finish(Condition::Always, 0)).await
    }
}

async fn in_s3(call: &Call, s3: &S3Blobs) -> Result<(), Refusal> {
    let request = call.request();
    match request.operation {
        Operation::BlobGet => s3.get(call).await,
        Operation::BlobPut => s3.put(call).await,
        Operation::BlobDelete => s3.delete(&request.key).await,
        _ => {
            let page = Page::new(request.first, &request.after);
            let page = s3.list(&request.key, &request.after, page).await?;
            Ok(call.send(&page.to_bytes()).await?)
        }
    }
}

/// A new file, which is dropped where that may be done.
struct Unfinished {
    file: Option<NewFile>,
    files: Files,
}

impl Unfinished {
    fn take(&mut self) -> NewFile {
        self.file.take().expect("it is put back after each step")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.files.send(move || drop(file));
        }
    }
}
