//! A table with small reusable numbers and an upper bound.

/// Up to `limit` values, each under a number that is free again once the value is removed.
pub(super) struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    limit: usize,
}

impl<T> Slab<T> {
    pub(super) fn new(limit: usize) -> Self {
        Slab { slots: Vec::new(), free: Vec::new(), limit }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// The number that the next value gets, or `None` if the table is full.
    pub(super) fn next_id(&self) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        Some(self.free.last().copied().unwrap_or(self.slots.len() as u32))
    }

    /// Puts a value in; its number, or `None` (and the value dropped) if the table is full.
    pub(super) fn insert(&mut self, value: T) -> Option<u32> {
        let id = self.next_id()?;
        match self.free.pop() {
            Some(id) => self.slots[id as usize] = Some(value),
            None => self.slots.push(Some(value)),
        }
        Some(id)
    }

    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.slots.get(id as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        let value = self.slots.get_mut(id as usize)?.take()?;
        self.free.push(id);
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(id, slot)| Some((id as u32, slot.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_and_the_bound_holds() {
        let mut slab = Slab::new(2);
        let (a, b) = (slab.insert('a').unwrap(), slab.insert('b').unwrap());
        assert!(slab.is_full());
        assert_eq!(slab.insert('c'), None);
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.insert('d'), Some(a));
        assert_eq!(slab.iter().map(|(_, v)| *v).collect::<String>(), "db");
        assert_eq!((slab.get(b), slab.get(7)), (Some(&'b'), None));
    }
}
