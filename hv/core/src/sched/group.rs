//! Groups of tasks and of groups, each with one share.

use super::SharedScheduler;
use super::policy::{NodeId, ROOT};
use super::share::Share;
use std::fmt;
use std::sync::Arc;

/// A group of guests, and of groups: what they use together is of one share, however many they are. A clone of this
/// handle is the same group. It lives as long as a handle, a member, or a group in it.
#[derive(Clone)]
pub struct Group {
    pub(super) inner: Arc<GroupInner>,
}

pub(super) struct GroupInner {
    pub(super) node: NodeId,
    pub(super) shared: Arc<SharedScheduler>,
}

impl Group {
    pub(super) fn new(shared: &Arc<SharedScheduler>, above: NodeId, share: Share) -> Self {
        let node = shared.core().policy.add_group(above, share, shared.now());
        Group { inner: Arc::new(GroupInner { node, shared: shared.clone() }) }
    }

    /// A new group in this one: its share is a part of this group's.
    #[must_use]
    pub fn group(&self, share: Share) -> Group {
        Group::new(&self.inner.shared, self.inner.node, share)
    }

    /// Gives it another share, from now on.
    pub fn set_share(&self, share: Share) {
        let GroupInner { node, shared } = &*self.inner;
        shared.change(|core, now| core.policy.set_node_share(*node, share, now));
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Group").field(&self.inner.node).finish()
    }
}

impl Drop for GroupInner {
    fn drop(&mut self) {
        debug_assert_ne!(self.node, ROOT, "the root has no handle");
        self.shared.core().policy.drop_group(self.node);
    }
}
