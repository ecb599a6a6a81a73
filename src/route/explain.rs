//! The walk with a voice: which routes were considered, and why each was or was not taken.

use super::predicate::{Failure, Request};
use super::table::RouteTable;

/// What became of a route that was considered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It serves the request.
    Chosen,
    /// It would, if no route before it did.
    Passed,
    /// Host and path match, but a test fails.
    Failed(Failure),
}

/// A route whose host and path match, in the order of consideration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Index in the order of the file.
    pub index: usize,
    /// What became of it.
    pub verdict: Verdict,
}

impl<T> RouteTable<T> {
    /// Everything that [`RouteTable::find`] considers, and what it would consider after that.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Vec<Considered> {
        let mut list = Vec::new();
        let mut chosen = false;
        self.walk(request.host, request.path, &mut |id| {
            let index = id.index();
            let failure = self.get(index).and_then(|route| route.tests.failure(request));
            let verdict = match failure {
                Some(failure) => Verdict::Failed(failure),
                None if std::mem::replace(&mut chosen, true) => Verdict::Passed,
                None => Verdict::Chosen,
            };
            list.push(Considered { index, verdict });
            false
        });
        list
    }
}
