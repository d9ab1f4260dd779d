//! A server in this process, on a directory that is there: quick to start, so that thousands can be looked at.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use release_server::{
    auth::Authenticator,
    config, hasher,
    http::{
        self,
        serve::{Draining, serve},
    },
    packages::Packages,
    releases::Releases,
    storage::Storage,
    sweep,
};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    process::TOKEN,
    world::{Asker, World, staged},
};

/// How long a server has to find out digests.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) struct Local {
    pub(crate) asker: Asker,
    packages: Packages,
    releases: Releases,
    tasks: Vec<JoinHandle<()>>,
}

impl Local {
    /// Starts a server that keeps everything.
    pub(crate) async fn start(root: &Path, client: &reqwest::Client) -> Self {
        let settings = [("AUTH_TOKEN", TOKEN), ("MAX_PACKAGES", "0"), ("RETENTION__RELEASES", "0")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.into()));
        let config = config::load_from(settings, Path::new("/nonexistent/config.yaml")).unwrap().config;
        let storage = Storage::directory(root, config.upload_memory_bytes).unwrap();
        let packages = Packages::new(storage, &config);
        let releases = Releases::new(packages.storage().clone(), &config);
        let auth = Authenticator::new(config.auth_token.as_ref(), &config.auth).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local: SocketAddr = listener.local_addr().unwrap();
        let draining = Draining::default();
        let app =
            http::app(packages.clone(), releases.clone(), Arc::new(auth), &config, local, draining.clone());
        let serving = tokio::spawn(async move {
            serve(listener, app, &config.server, draining, std::future::pending()).await;
        });
        Self { asker: Asker::new(client, local), packages, releases, tasks: vec![serving] }
    }

    /// Waits until every package has its digest, and looks.
    pub(crate) async fn settled(&mut self) -> Result<World, String> {
        self.tasks.push(tokio::spawn(hasher::run(self.packages.clone())));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (world, unhashed) = self.asker.look().await?;
            if unhashed.is_empty() {
                return Ok(world);
            }
            if Instant::now() > deadline {
                return Err(format!("still without a digest after {PATIENCE:?}: {unhashed:?}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sweeps; then nothing unfinished is left, and callers see what they saw.
    pub(crate) async fn swept(&self, root: &Path, before: &World) -> Result<(), String> {
        // What somebody leaves who dies beside a server that lives.
        std::fs::write(root.join(".release-server/stage/left"), "half").unwrap();
        sweep::both(&self.packages, &self.releases).await.map_err(|error| format!("the sweep: {error:?}"))?;
        let staged = staged(root);
        if !staged.is_empty() {
            return Err(format!("unfinished uploads are left after a sweep: {staged:?}"));
        }
        let (after, _) = self.asker.look().await?;
        if after.looks_like(before) {
            return Ok(());
        }
        Err(format!("the sweep has made {after:#?}\nof {before:#?}"))
    }

    /// Tries everything that the server does with its store.
    pub(crate) async fn doctor(&self) -> Result<(), String> {
        let probes = self.packages.storage().diagnose().await;
        let failed: Vec<_> = probes.iter().filter(|probe| probe.outcome.is_err()).collect();
        if failed.is_empty() { Ok(()) } else { Err(format!("the doctor: {failed:?}")) }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
