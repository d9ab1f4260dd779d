//! What was asked of one name and what was answered, and whether a store that loses nothing could have answered so.
//!
//! The name is a register: absent, or one version. Every operation must seem to happen at one instant between its
//! request and its answer (linearizability). Beside them the sweep may remove a version at any instant, but only
//! once enough other packages may have been published after it. Checked as in G. Lowe, "Testing for
//! linearizability" (2017): the states that are possible are carried from answer to answer; none left is a fault.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

pub(crate) type Version = usize;

/// What an operation was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Stored under a free name.
    Created(Version),
    /// Not stored: the name is taken.
    Taken,
    /// Stored, whatever was there.
    Overwritten(Version),
    Deleted,
    /// Nothing there to delete.
    Missing,
    /// An upload (over whatever was there, or not) that was not acknowledged: it happened by its end, or never.
    MaybeStored(Version, bool),
    /// The same for a delete.
    MaybeDeleted,
    /// Downloaded, or found absent.
    Read(Option<Version>),
    /// Found in a listing, or not: then it may also be hidden, because a sweep may remove it.
    Listed(Option<Version>),
}

/// An operation on the one name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) start: Instant,
    pub(crate) end: Instant,
    pub(crate) answer: Answer,
}

/// An upload of another name, which may push the one name out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Other {
    pub(crate) start: Instant,
    pub(crate) end: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) operations: Vec<Operation>,
    pub(crate) others: Vec<Other>,
    /// How many packages are kept; 0 is unlimited, and nothing is swept.
    pub(crate) max_packages: usize,
    /// Whether deletes that meet may each be told that they deleted the same version: a bucket's DELETE does not say
    /// whether there was anything.
    pub(crate) shared_deletes: bool,
}

type State = Option<Version>;

impl History {
    /// `Err` says which answer cannot be explained.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut events: Vec<(Instant, bool, usize)> = Vec::new();
        for (index, operation) in self.operations.iter().enumerate() {
            events.push((operation.start, false, index));
            events.push((operation.end, true, index));
        }
        events.sort_unstable();

        // A state, and those of the pending operations that have happened.
        let mut possible: HashSet<(State, u64)> = HashSet::from([(None, 0)]);
        let mut pending: BTreeMap<u32, usize> = BTreeMap::new();
        for (now, ends, index) in events {
            if !ends {
                let slot = (0..64).find(|slot| !pending.contains_key(slot)).expect("at most 64 at once");
                pending.insert(slot, index);
                continue;
            }
            let before: HashSet<State> = possible.iter().map(|(state, _)| *state).collect();
            self.spread(&mut possible, &pending, now);
            let slot = *pending.iter().find(|(_, other)| **other == index).expect("it has begun").0;
            pending.remove(&slot);
            let unsure =
                matches!(self.operations[index].answer, Answer::MaybeStored(..) | Answer::MaybeDeleted);
            possible = possible
                .into_iter()
                .filter(|(_, done)| unsure || done & (1 << slot) != 0)
                .map(|(state, done)| (state, done & !(1 << slot)))
                .collect();
            if possible.is_empty() {
                let first = events_start(&self.operations);
                let at = |instant: Instant| instant.duration_since(first);
                let Operation { start, end, answer } = self.operations[index];
                return Err(format!(
                    "{answer:?} ({:?}..{:?}) cannot be: the state was one of {before:?}, and meanwhile there were \
                     only {:?}",
                    at(start),
                    at(end),
                    pending.values().map(|other| self.operations[*other].answer).collect::<Vec<_>>()
                ));
            }
        }
        Ok(())
    }

    /// Adds everything that may have happened by `now`.
    fn spread(&self, possible: &mut HashSet<(State, u64)>, pending: &BTreeMap<u32, usize>, now: Instant) {
        let mut fresh: Vec<_> = possible.iter().copied().collect();
        while let Some((state, done)) = fresh.pop() {
            let mut add = |next| {
                if possible.insert(next) {
                    fresh.push(next);
                }
            };
            let may_go = state.is_some_and(|version| self.may_be_swept(version, now));
            if may_go {
                add((None, done));
                self.share(pending, done).for_each(|done| add((None, done)));
            }
            for (slot, index) in pending.iter().filter(|(slot, _)| done & (1 << **slot) == 0) {
                let done = done | 1 << slot;
                match self.operations[*index].answer {
                    Answer::Created(version) if state.is_none() => add((Some(version), done)),
                    Answer::Overwritten(version) | Answer::MaybeStored(version, true) => {
                        add((Some(version), done));
                    }
                    Answer::MaybeStored(version, false) if state.is_none() => add((Some(version), done)),
                    Answer::Deleted | Answer::MaybeDeleted if state.is_some() => {
                        add((None, done));
                        self.share(pending, done).for_each(|done| add((None, done)));
                    }
                    Answer::Taken if state.is_some() => add((state, done)),
                    Answer::Missing if state.is_none() => add((state, done)),
                    Answer::Read(found) if found == state => add((state, done)),
                    Answer::Listed(found) if found == state || found.is_none() && may_go => {
                        add((state, done));
                    }
                    _ => {}
                }
            }
        }
    }

    /// The deletes under way that may have deleted the same version, one or several of them, beside what is `done`.
    fn share(&self, pending: &BTreeMap<u32, usize>, done: u64) -> impl Iterator<Item = u64> {
        let shares = |index: &usize| self.shared_deletes && self.operations[*index].answer == Answer::Deleted;
        let slots = pending.iter().filter(|(slot, index)| done & (1 << **slot) == 0 && shares(index));
        let mut sets = vec![done];
        for (slot, _) in slots {
            sets.extend(sets.clone().iter().map(|set| set | 1 << slot));
        }
        sets.into_iter().skip(1)
    }

    /// Whether as many packages as are kept may have been published after this version. What was not acknowledged
    /// may go at any time.
    fn may_be_swept(&self, version: Version, now: Instant) -> bool {
        let unsure = |answer: &Answer| matches!(answer, Answer::MaybeStored(stored, _) if *stored == version);
        if self.operations.iter().any(|operation| unsure(&operation.answer)) {
            return true;
        }
        let stored = self.operations.iter().find(|operation| {
            matches!(operation.answer, Answer::Created(stored) | Answer::Overwritten(stored) if stored == version)
        });
        let newer =
            |other: &&Other| stored.is_some_and(|stored| other.end > stored.start) && other.start < now;
        self.max_packages > 0 && self.others.iter().filter(newer).count() >= self.max_packages
    }
}

fn events_start(operations: &[Operation]) -> Instant {
    operations.iter().map(|operation| operation.start).min().unwrap_or_else(Instant::now)
}

#[cfg(test)]
/// A history from (start, end, answer), in milliseconds.
fn history(max_packages: usize, others: &[(u64, u64)], operations: &[(u64, u64, Answer)]) -> History {
    let zero = Instant::now();
    let at = |ms| zero + Duration::from_millis(ms);
    History {
        operations: operations
            .iter()
            .map(|&(start, end, answer)| Operation { start: at(start), end: at(end), answer })
            .collect(),
        others: others.iter().map(|&(start, end)| Other { start: at(start), end: at(end) }).collect(),
        max_packages,
        shared_deletes: false,
    }
}

#[test]
fn the_checker_accepts_what_can_have_happened() {
    use Answer::{Created, Deleted, Listed, Missing, Overwritten, Read, Taken};
    for operations in [
        &[(0, 1, Created(1)), (2, 3, Read(Some(1))), (4, 5, Deleted), (6, 7, Read(None)), (8, 9, Missing)][..],
        // Two deletes, the second of which hits the upload between them.
        &[(0, 1, Created(1)), (2, 9, Deleted), (3, 4, Deleted), (5, 6, Created(2)), (10, 11, Read(None))],
        // An upload is seen before it is acknowledged, and one that was seen replaces another.
        &[(0, 9, Created(1)), (1, 2, Read(None)), (3, 4, Listed(Some(1))), (5, 6, Taken)],
        &[(0, 9, Overwritten(1)), (1, 8, Overwritten(2)), (10, 11, Read(Some(1)))],
    ] {
        history(0, &[], operations).check().unwrap();
    }
}

#[test]
fn the_checker_finds_a_planted_loss() {
    use Answer::{Created, Deleted, Listed, Missing, Overwritten, Read, Taken};
    for operations in [
        // Acknowledged and gone.
        &[(0, 1, Created(1)), (2, 3, Read(None))][..],
        &[(0, 1, Overwritten(1)), (2, 3, Listed(None))],
        &[(0, 1, Created(1)), (2, 3, Missing)],
        // One delete takes one version, not the next one too.
        &[(0, 1, Created(1)), (2, 9, Deleted), (3, 4, Read(None)), (5, 6, Created(2)), (10, 11, Read(None))],
        // The old version after the new one was acknowledged, and a version back from the dead.
        &[(0, 1, Created(1)), (2, 3, Overwritten(2)), (4, 5, Read(Some(1)))],
        &[(0, 1, Created(1)), (2, 3, Deleted), (4, 5, Listed(Some(1)))],
        // Two winners.
        &[(0, 9, Created(1)), (0, 9, Created(2))],
        // A version that nobody stored, a name taken by nothing.
        &[(0, 1, Read(Some(1)))],
        &[(0, 1, Taken)],
    ] {
        history(0, &[], operations).check().unwrap_err();
    }
}

#[test]
fn the_checker_blames_the_sweep_only_for_what_it_may_remove() {
    use Answer::{Created, Listed, Read};
    let gone = [(10, 20, Created(1)), (50, 60, Read(None))];
    let hidden = [(10, 20, Created(1)), (50, 60, Listed(None)), (61, 62, Read(Some(1)))];
    for operations in [&gone[..], &hidden] {
        history(2, &[(15, 30), (30, 40)], operations).check().unwrap();
        // One of them was there before, comes later, or is missing.
        history(2, &[(0, 9), (30, 40)], operations).check().unwrap_err();
        history(2, &[(30, 40), (70, 80)], operations).check().unwrap_err();
        history(2, &[(30, 40)], operations).check().unwrap_err();
        history(0, &[(15, 30), (30, 40)], operations).check().unwrap_err();
    }
}

#[test]
fn the_checker_takes_what_was_not_acknowledged_either_way() {
    use Answer::{Created, MaybeDeleted, MaybeStored, Read};
    for operations in [
        &[(0, 1, Created(1)), (2, 3, MaybeStored(2, true)), (4, 5, Read(Some(1)))][..],
        &[(0, 1, Created(1)), (2, 3, MaybeStored(2, true)), (4, 5, Read(Some(2)))],
        &[(0, 1, Created(1)), (2, 3, MaybeDeleted), (4, 5, Read(None))],
        &[(0, 1, Created(1)), (2, 3, MaybeDeleted), (4, 5, Read(Some(1)))],
    ] {
        history(0, &[], operations).check().unwrap();
    }
    for operations in [
        &[(0, 1, Created(1)), (2, 3, MaybeStored(2, false)), (4, 5, Read(Some(2)))][..],
        &[(0, 1, Created(1)), (2, 3, MaybeDeleted), (4, 5, Read(None)), (6, 7, Read(Some(1)))],
        // It does not happen after its end.
        &[(0, 1, MaybeStored(1, true)), (2, 3, Read(None)), (4, 5, Read(Some(1)))],
    ] {
        history(0, &[], operations).check().unwrap_err();
    }
}

#[test]
fn deletes_share_a_version_only_where_they_meet_and_may() {
    use Answer::{Created, Deleted, Read};
    let meet =
        [(0, 1, Created(1)), (2, 6, Deleted), (3, 7, Deleted), (8, 9, Created(2)), (10, 11, Read(Some(2)))];
    let apart = [(0, 1, Created(1)), (2, 3, Deleted), (4, 5, Deleted)];
    let check =
        |operations: &[_], shared_deletes| History { shared_deletes, ..history(0, &[], operations) }.check();
    check(&meet, true).unwrap();
    check(&meet, false).unwrap_err();
    check(&apart, true).unwrap_err();
}
