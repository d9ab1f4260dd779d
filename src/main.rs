//! The command line: what can be asked, and who answers. The server is [`server`], the client
//! [`release_server::client`].
//!
//! Exit codes: 0 done, 1 failed, 2 the command line is wrong.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use release_server::{
    client::{self, Chain, Client, Destination, Verify, releases::Publishing},
    config::{self, Config},
    http, server, telemetry,
};
use tokio::runtime::Builder;

/// Much of what a request allocates is freed by another thread. The system's allocators are slow at that, musl's most.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  release-server                                       serve ./data (or /data) on port 8000
  AUTH_TOKEN=secret STORAGE_PATH=/srv release-server   the same, with a token and a place
  release-server config                                the settings in effect, and where each came from

  export RELEASE_SERVER_URL=https://releases.example.com RELEASE_SERVER_TOKEN=secret
  release-server upload dist/*.zip                     publish; prints each digest and URL
  release-server list                                  what is there, newest first
  release-server download --latest --match linux       the newest that is called so
";

const SERVE_NOTES: &str = "\
Settings come from variables, and from the YAML file at CONFIG_PATH (/etc/release-server/config.yaml):
  PORT            8000 unless set
  STORAGE_PATH    /data if there is one, else ./data
  AUTH_TOKEN      none; on a terminal one is made for the run
  MAX_PACKAGES    10; how many packages are listed and kept, 0 for all
  PUBLIC_URL      what links begin with; else each request says
`release-server config` prints all of them with their values, and where each value came from.
";

const SWEEP_NOTES: &str = "\
A running server sweeps by itself, see `retention.interval`; this is for a timer, and for a look before a setting
is changed: `MAX_PACKAGES=5 release-server sweep --dry-run`. The very first sweep of a store removes nothing, it
only logs what the next one will.
";

const UPLOAD_EXAMPLES: &str = "\
Examples:
  release-server upload app-1.0.0.tar.gz
  release-server upload --jobs 4 dist/*.zip
  release-server upload --overwrite nightly.zip
  release-server upload --repo acme/app --tag v1.0.0 --notes \"First\" dist/*

Prints the SHA-256 and the URL of each file. An upload may be repeated: a name that is taken by the
same bytes is a success, and one that is taken by others an error unless `--overwrite` is given.
With `--repo` a release appears when it has all of its files; one that is there gets them in addition.
";

const DOWNLOAD_EXAMPLES: &str = "\
Examples:
  release-server download app-1.0.0.tar.gz
  release-server download --latest --match claude-sh -o template.zip
  release-server download app-1.0.0.tar.gz -o - | tar -xz
  release-server download --repo acme/app --tag v1.0.0 app.tar.gz
  release-server download --repo acme/app --match linux

Length and SHA-256 are checked. What was cut short stays in `NAME.part`, and the same command continues it.
";

/// Publishes and serves release packages from a directory or object storage.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    /// `serve` if there is none.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (the default)
    #[command(after_help = SERVE_NOTES)]
    Serve,
    /// Remove what the retention settings no longer keep, once
    #[command(after_help = SWEEP_NOTES)]
    Sweep {
        /// Only print what would go, and why
        #[arg(long)]
        dry_run: bool,
    },
    /// Publish files to a server
    #[command(after_help = UPLOAD_EXAMPLES)]
    Upload {
        /// Files to publish under their own names
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Replace packages of the same name
        #[arg(long)]
        overwrite: bool,
        /// Files to send at the same time
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
        jobs: u16,
        /// Publish them as a release of this repository, or add them to it
        #[arg(long, value_name = "OWNER/REPO", requires = "tag")]
        repo: Option<String>,
        /// The release's tag
        #[arg(long, requires = "repo")]
        tag: Option<String>,
        /// The notes of a new release, in Markdown
        #[arg(long, value_name = "TEXT", requires = "repo")]
        notes: Option<String>,
        /// Leave a new release a draft
        #[arg(long, requires = "repo")]
        draft: bool,
        /// Make a new release one that is never the latest
        #[arg(long, requires = "repo")]
        prerelease: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show the packages of a server, newest first
    List {
        /// Print the server's JSON
        #[arg(long)]
        json: bool,
        /// The releases of this repository instead
        #[arg(long, value_name = "OWNER/REPO")]
        repo: Option<String>,
        /// The assets of this release
        #[arg(long, requires = "repo")]
        tag: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Fetch a package from a server
    #[command(after_help = DOWNLOAD_EXAMPLES)]
    Download {
        /// The package
        #[arg(required_unless_present_any = ["latest", "text"])]
        name: Option<String>,
        /// The newest package instead of one by its name
        #[arg(long, conflicts_with_all = ["name", "repo"])]
        latest: bool,
        /// An asset of this repository's latest release instead
        #[arg(long, value_name = "OWNER/REPO")]
        repo: Option<String>,
        /// An asset of this release, not of the latest one
        #[arg(long, requires = "repo")]
        tag: Option<String>,
        /// With `--latest` or `--repo`: the first whose name contains this
        #[arg(
            long = "match",
            value_name = "TEXT",
            conflicts_with = "name",
            default_value = "",
            hide_default_value = true
        )]
        text: String,
        /// Where to put it; `-` is standard output [default: its name, in the current directory]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Delete packages from a server
    Delete {
        /// The packages, or the assets of a release
        #[arg(required_unless_present = "repo", value_name = "NAME")]
        names: Vec<String>,
        /// A release of this repository, or with NAME some of its assets
        #[arg(long, value_name = "OWNER/REPO", requires = "tag")]
        repo: Option<String>,
        /// The release's tag
        #[arg(long, requires = "repo")]
        tag: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Ask a server whether it is ready; for a container without a shell
    Healthcheck {
        /// The server [default: the one of this configuration, on 127.0.0.1]
        #[arg(long)]
        url: Option<String>,
    },
    /// Print the server's `openapi.json`
    Openapi,
    /// Try everything the server does with its storage, and print what was seen
    Doctor,
    /// Print the settings in effect and where each came from, or what is wrong with them
    Config,
}

/// How a client command reaches its server.
#[derive(Args)]
#[command(next_help_heading = "Server")]
struct Connection {
    /// The server's address
    #[arg(long, env = "RELEASE_SERVER_URL", default_value = "http://localhost:8000")]
    url: String,
    // There is no option for the token itself: a command line can be read by every user of the machine.
    /// File that holds the token [default: the variable `RELEASE_SERVER_TOKEN`]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Connection {
    fn client(&self) -> Result<Client> {
        Client::new(&self.url, client::token(self.token_file.as_deref())?.as_ref())
    }
}

fn main() -> ExitCode {
    let ended = run(Cli::parse().command.unwrap_or(Command::Serve));
    // What the last tasks had to say too: the runtime has gone.
    telemetry::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `eprintln!`: it panics if nobody listens.
            writeln!(io::stderr(), "error: {}", Chain(&error)).ok();
            ExitCode::FAILURE
        }
    }
}

/// The configuration of a command that logs what it does.
fn logged() -> Result<Config> {
    let config = config::load()?.config;
    telemetry::init(&config.log)?;
    Ok(config)
}

fn print(text: &str) -> Result<()> {
    writeln!(io::stdout(), "{}", text.trim_end())?;
    Ok(())
}

fn run(command: Command) -> Result<()> {
    let mut runtime = match command {
        // Its connections have threads of their own.
        Command::Serve => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    let ended = runtime.block_on(execute(command));
    runtime.shutdown_timeout(http::workers::LAST_WORK);
    ended
}

async fn execute(command: Command) -> Result<()> {
    match command {
        Command::Serve => server::run(logged()?).await,
        Command::Sweep { dry_run: true } => print(&server::sweep_preview(&config::load()?.config).await?),
        Command::Sweep { dry_run: false } => server::sweep_once(&logged()?).await,
        Command::Doctor => server::doctor(&config::load()?.config).await,
        Command::Openapi => print(&http::openapi()),
        Command::Config => print(&config::load()?.describe()),
        Command::Upload { files, overwrite, jobs, repo, tag, notes, draft, prerelease, connection } => {
            let client = connection.client()?;
            match repo.zip(tag) {
                Some((repo, tag)) => {
                    let publishing = Publishing { notes, draft, prerelease };
                    let repository = client.repository(&repo)?;
                    repository.upload(&tag, &files, &publishing, overwrite, jobs.into()).await
                }
                None => client.upload(&files, overwrite, jobs.into()).await,
            }
        }
        Command::List { json, repo, tag, connection } => {
            let client = connection.client()?;
            match repo {
                Some(repo) => client.repository(&repo)?.list(tag.as_deref(), json).await,
                None => client.list(json).await,
            }
        }
        Command::Download { name, text, output, force, repo, tag, connection, latest: _ } => {
            let client = connection.client()?;
            let to = match output {
                None => Destination::Here,
                Some(file) if file.as_os_str() == "-" => Destination::Stdout,
                Some(file) => Destination::File(file),
            };
            if let Some(repo) = repo {
                let repository = client.repository(&repo)?;
                return repository.download(tag.as_deref(), name.as_deref(), &text, &to, force).await;
            }
            let name = match name {
                Some(name) => name,
                None => client.latest(&text).await?,
            };
            client.download(&name, &to, force).await
        }
        Command::Delete { names, repo, tag, connection } => {
            let client = connection.client()?;
            match repo.zip(tag) {
                Some((repo, tag)) => client.repository(&repo)?.delete(&tag, &names).await,
                None => client.delete(&names).await,
            }
        }
        Command::Healthcheck { url } => match url {
            Some(url) => client::healthcheck(&url, Verify::Yes).await,
            None => client::healthcheck(&server::local_url(&config::load()?.config), Verify::No).await,
        },
    }
}
