//! Routes that say what they are, and do so only when asked: the document takes megabytes to make, and a server that
//! nobody asks for it does without them.

use aide::{
    OperationInput, OperationOutput,
    axum::{ApiRouter, routing::ApiMethodRouter},
    operation::OperationHandler,
};
use axum::{Router, handler::Handler, routing::MethodRouter};

use super::{App, openapi::Op};

/// Adds the description of one method.
type Describe = Box<dyn FnOnce(ApiMethodRouter<App>) -> ApiMethodRouter<App>>;

/// The methods of a path: what answers them, and what describes them.
#[derive(Default)]
pub(super) struct Methods {
    answering: MethodRouter<App>,
    describing: Vec<Describe>,
}

impl From<Methods> for MethodRouter<App> {
    fn from(methods: Methods) -> Self {
        methods.answering
    }
}

macro_rules! add {
    ($($name:ident $name_with:ident),*) => {
        impl Methods {$(
            /// Adds this method.
            pub(super) fn $name_with<H, I, O, T, F>(mut self, handler: H, describe: F) -> Self
            where
                H: Handler<T, App> + OperationHandler<I, O>,
                I: OperationInput + 'static,
                O: OperationOutput + 'static,
                T: 'static,
                F: FnOnce(Op<'_>) -> Op<'_> + 'static,
            {
                self.answering = self.answering.$name(handler.clone());
                self.describing.push(Box::new(|methods| methods.$name_with(handler, describe)));
                self
            }
        )*}
    };
}

macro_rules! begin {
    ($($name_with:ident),*) => {$(
        /// The methods of a path, beginning with this one.
        pub(super) fn $name_with<H, I, O, T, F>(handler: H, describe: F) -> Methods
        where
            H: Handler<T, App> + OperationHandler<I, O>,
            I: OperationInput + 'static,
            O: OperationOutput + 'static,
            T: 'static,
            F: FnOnce(Op<'_>) -> Op<'_> + 'static,
        {
            Methods::default().$name_with(handler, describe)
        }
    )*};
}

add!(delete delete_with, get get_with, patch patch_with, post post_with, put put_with);
begin!(delete_with, get_with, post_with);

/// Paths and their methods.
#[derive(Default)]
pub(super) struct Routes(Vec<(String, Methods)>);

impl Routes {
    /// Adds a path.
    pub(super) fn route(mut self, path: &str, methods: Methods) -> Self {
        self.0.push((path.to_owned(), methods));
        self
    }

    /// Adds what is in another one.
    pub(super) fn merge(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// What answers.
    pub(super) fn router(self) -> Router<App> {
        self.0
            .into_iter()
            .fold(Router::new(), |router, (path, methods)| router.route(&path, methods.answering))
    }

    /// What describes.
    pub(super) fn documented(self) -> ApiRouter<App> {
        self.0.into_iter().fold(ApiRouter::new(), |router, (path, methods)| {
            let described = methods.describing.into_iter().fold(ApiMethodRouter::new(), |all, one| one(all));
            router.api_route(&path, described)
        })
    }
}
