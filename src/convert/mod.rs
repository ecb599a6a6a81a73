//! Other people's route files, turned into routes of this configuration.

pub mod function_routes;

use crate::config::tree::{Kind, Node};
use crate::config::{Code, Diagnostic, Diagnostics, Import, Route, Shape, Spanned};

/// Turns a file's document into routes; what is wrong goes to `found`.
pub fn routes(import: &Import, document: &Node, found: &mut Diagnostics) -> Vec<Spanned<Route>> {
    match import.shape.or_else(|| detect(document)) {
        Some(Shape::FunctionRoutes) => function_routes::convert(document, import.host.as_ref(), found),
        None => {
            let message = "this file has none of the shapes that can be imported";
            let help = "function routes are a mapping of path patterns to URLs: {\"/api/*\": \"https://…\"}";
            found.push(Diagnostic::at(Code::Include, message, import.file.span, "named here").help(help));
            Vec::new()
        }
    }
}

/// The shape of a document, told from its keys.
fn detect(document: &Node) -> Option<Shape> {
    let Kind::Map(entries) = &document.kind else { return None };
    entries.iter().all(|(key, _)| key.text.starts_with('/')).then_some(Shape::FunctionRoutes)
}
