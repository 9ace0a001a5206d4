//! What a server does beside requests: ends overdue uploads and deletes garbage whose time has come.

use super::{Result, Store};
use crate::backend::Backend;
use crate::chunk::{ObjectName, StoreObject, folder};
use crate::id::{ObjectId, ShareId};
use crate::leasedb::LeaseDb;

const UPLOADS_AT_ONCE: u32 = 100;
const GARBAGE_AT_ONCE: u32 = 100;
const CLAIM_SECONDS: i64 = 300;
const LIST_AT_ONCE: usize = 1000;

/// What one sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Uploads ended for lack of progress.
    pub uploads_ended: u64,
    /// Objects deleted.
    pub objects_deleted: u64,
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Ends overdue uploads and deletes due garbage until there is none; any number of sweeps may run at once.
    ///
    /// # Errors
    /// The lease database or the backend fails; what was done until then is done.
    pub async fn sweep(&self) -> Result<Swept> {
        let mut swept = Swept::default();
        loop {
            let overdue = self.db.overdue_uploads(UPLOADS_AT_ONCE).await?;
            for (share, upload) in &overdue {
                let strays = self.list_upload(*share, *upload).await?;
                swept.uploads_ended += u64::from(self.db.end_upload(*share, *upload, strays, true).await?);
            }
            let garbage = self.db.claim_garbage(GARBAGE_AT_ONCE, CLAIM_SECONDS).await?;
            let mut done = Vec::new();
            for row in &garbage {
                for name in &row.objects {
                    self.backend.delete(&name.key()).await?;
                    swept.objects_deleted += 1;
                }
                done.push(row.id);
            }
            self.db.finish_garbage(done).await?;
            if overdue.is_empty() && garbage.is_empty() {
                return Ok(swept);
            }
        }
    }

    /// The objects of an upload that the backend has, named by rows or not: a process may have died between the two.
    async fn list_upload(&self, share: ShareId, upload: ObjectId) -> Result<Vec<StoreObject>> {
        let prefix = folder(share.storage_index);
        let mut objects = Vec::new();
        let mut after = None;
        loop {
            let page = self.backend.list(&prefix, after.as_deref(), LIST_AT_ONCE).await?;
            let names = page.objects.iter().filter_map(|listed| listed.name.parse::<ObjectName>().ok());
            let ours = names.filter(|name| name.share == share && name.object.group() == upload);
            objects.extend(ours.map(|name| name.object));
            after = page.next;
            if after.is_none() {
                return Ok(objects);
            }
        }
    }
}
