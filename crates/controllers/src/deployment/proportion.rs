//! What a change of size means while a rollout is under way: every set gets its share.

use std::cmp::Reverse;

use super::{DESIRED, MAX, Rollout};

impl Rollout<'_> {
    /// Distributes a change of size over the sets, larger sets taking the larger part.
    pub(super) fn scale_in_proportion(&mut self) {
        let desired = self.desired();
        let mut active: Vec<usize> = (0..self.sets.len()).filter(|i| self.sets[*i].replicas > 0).collect();
        if active.len() <= 1 {
            let latest = active.first().copied().or(self.current).or_else(|| self.sets.len().checked_sub(1));
            if let Some(only) = latest {
                self.sets[only].replicas = desired;
            }
            return;
        }
        if let Some(current) = self.current.filter(|c| self.is_saturated(*c)) {
            active.iter().filter(|i| **i != current).for_each(|i| self.sets[*i].replicas = 0);
            return;
        }
        if self.is_recreate() {
            return;
        }
        let (surge, _) = self.fenceposts();
        let allowed = if desired > 0 { desired + surge } else { 0 };
        let to_add = allowed - active.iter().map(|i| self.sets[*i].replicas).sum::<i32>();
        active.sort_by_key(|i| {
            (
                Reverse(self.sets[*i].replicas),
                if to_add > 0 { Reverse(*i as i64) } else { Reverse(-(*i as i64)) },
            )
        });
        let mut added = 0;
        let mut sizes = Vec::new();
        for i in &active {
            let share = self.share(*i, to_add, added, allowed);
            added += share;
            sizes.push(self.sets[*i].replicas + share);
        }
        sizes[0] = (sizes[0] + to_add - added).max(0);
        for (i, size) in active.into_iter().zip(sizes) {
            self.sets[i].replicas = size;
            let mut annotations = std::mem::take(&mut self.sets[i].annotations);
            self.size_annotations(&mut annotations);
            self.sets[i].annotations = annotations;
        }
    }

    fn is_saturated(&self, at: usize) -> bool {
        let (set, desired) = (&self.sets[at], self.desired());
        set.replicas == desired && set.number(DESIRED) == Some(desired) && set.available() == desired
    }

    /// How many of `to_add` replicas (negative to remove) one set gets.
    fn share(&self, at: usize, to_add: i32, added: i32, allowed: i32) -> i32 {
        let set = &self.sets[at];
        if to_add == 0 || to_add == added {
            return 0;
        }
        let before = set.number(MAX).filter(|m| *m != 0);
        let before = before.unwrap_or_else(|| self.old.status.as_ref().and_then(|s| s.replicas).unwrap_or(0));
        let fraction = match (self.desired(), before) {
            (0, _) => -set.replicas,
            (_, 0) => 0,
            (_, before) => {
                let size = f64::from(set.replicas) * f64::from(allowed) / f64::from(before);
                size.round() as i32 - set.replicas
            }
        };
        if to_add > 0 { fraction.min(to_add - added) } else { fraction.max(to_add - added) }
    }
}
