//! `lemma up`: a whole network in this process, with its API.

mod banner;
mod demo;
mod upstream;

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use lemma_api::{Api, Limits, metrics::Exporter};
use lemma_node::{
    Network,
    network::{NetworkConfig, NetworkError},
};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};

use self::banner::Endpoints;
use crate::{
    cli::Up,
    config::{Config, keys},
    error::{CommandError, CommandResult, Context as _},
    exit::ExitCode,
    progress, samples,
    shell::Shell,
};

/// How long requests in flight may take to end when the network stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Starts the network and keeps it up until it is told to stop.
pub(super) fn run(arguments: &Up, config: &Config, shell: &mut Shell) -> CommandResult<ExitCode> {
    // Before anything is started: are the ports free?
    let host = config.address(keys::UP_HOST)?;
    let api = bind(host, config.integer(keys::UP_PORT)?, "--port")?;
    let metrics = bind(
        host,
        config.integer(keys::UP_METRICS_PORT)?,
        "--metrics-port",
    )?;
    let network = NetworkConfig {
        validators: config.integer(keys::UP_VALIDATORS)?,
        workers: config.integer(keys::UP_WORKERS)?,
        heartbeat: config.duration(keys::UP_HEARTBEAT)?,
        batch_interval: config.duration(keys::UP_SETTLE_INTERVAL)?,
        samples: samples::all()?,
        upstream: upstream::configured(config)?,
        ..NetworkConfig::new(config.path(keys::UP_DATA_DIR)?)
    };
    let exporter =
        Exporter::install().context(ExitCode::Internal, || "can not collect metrics".to_owned())?;
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("lemma")
        .build()
        .context(ExitCode::Internal, || {
            "can not start the runtime".to_owned()
        })?;
    let listeners = Listeners { api, metrics };
    let result = runtime.block_on(live(
        network,
        listeners,
        exporter,
        arguments.demo,
        config,
        shell,
    ));
    // Whoever is told to stop at once does not wait for threads.
    runtime.shutdown_background();
    result
}

struct Listeners {
    api: TcpListener,
    metrics: TcpListener,
}

fn bind(host: IpAddr, port: u16, flag: &str) -> CommandResult<TcpListener> {
    let address = SocketAddr::new(host, port);
    let listener = TcpListener::bind(address).map_err(|error| {
        let failed = CommandError::failed(format!("can not listen on {address}")).because(&error);
        match error.kind() {
            io::ErrorKind::AddrInUse => failed
                .hint(format!(
                    "another program uses port {port}, perhaps another `lemma up`"
                ))
                .hint(format!("{flag} 0 picks a free port")),
            io::ErrorKind::PermissionDenied => {
                failed.hint(format!("choose a port from 1024 with {flag}"))
            }
            _ => failed,
        }
    })?;
    listener
        .set_nonblocking(true)
        .context(ExitCode::Internal, || {
            format!("can not listen on {address}")
        })?;
    Ok(listener)
}

/// Interrupts by the user or the system.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

async fn live(
    config: NetworkConfig,
    listeners: Listeners,
    exporter: Exporter,
    demo: bool,
    settings: &Config,
    shell: &mut Shell,
) -> CommandResult<ExitCode> {
    let mut interrupts = Interrupts::new().context(ExitCode::Internal, || {
        "can not listen for signals".to_owned()
    })?;
    let spinner = progress::spinner("starting the network", shell);
    let started = tokio::select! {
        started = Network::start(config) => started,
        () = interrupts.next() => return Ok(ExitCode::Interrupted),
    };
    spinner.finish_and_clear();
    let network = started.map_err(start_error)?;
    let (mut servers, endpoints) = Servers::start(&network, listeners, exporter)?;
    endpoints.announce(&network, shell)?;
    let code = tokio::select! {
        result = tour_and_wait(demo, &endpoints, &network, settings, shell, &mut servers) => {
            let error = result.err();
            if let Some(error) = &error {
                shell.error(error);
            }
            error.map_or(ExitCode::Ok, |error| error.code())
        }
        () = interrupts.next() => ExitCode::Ok,
    };
    shell.note("stopping; Ctrl-C again stops at once");
    tokio::select! {
        () = stop(servers, network) => Ok(code),
        () = interrupts.next() => Ok(ExitCode::Interrupted),
    }
}

/// Gives the tour if it is asked for; then waits until a server fails, which should never happen.
async fn tour_and_wait(
    demo: bool,
    endpoints: &Endpoints,
    network: &Network,
    settings: &Config,
    shell: &mut Shell,
    servers: &mut Servers,
) -> CommandResult {
    if demo {
        demo::run(endpoints, network, settings, shell).await?;
    }
    servers.failed().await
}

fn start_error(error: NetworkError) -> CommandError {
    let code = match &error {
        NetworkError::Config { .. } => ExitCode::Usage,
        NetworkError::NotReady(_) => ExitCode::Timeout,
        _ => ExitCode::Failed,
    };
    let failed = CommandError::new(code, "the network did not start").because(&error);
    match error {
        NetworkError::Config { .. } | NetworkError::InUse(_) => failed,
        _ => failed.hint("run it again with -v to see more"),
    }
}

async fn stop(servers: Servers, network: Network) {
    servers.stop().await;
    network.stop().await;
}

/// The two HTTP servers.
struct Servers {
    api: JoinHandle<io::Result<()>>,
    metrics: JoinHandle<io::Result<()>>,
    stop: watch::Sender<bool>,
}

impl Servers {
    fn start(
        network: &Network,
        listeners: Listeners,
        exporter: Exporter,
    ) -> CommandResult<(Self, Endpoints)> {
        let cannot = || "can not serve the API".to_owned();
        let listen = |listener: TcpListener| {
            let address = listener.local_addr()?;
            Ok::<_, io::Error>((tokio::net::TcpListener::from_std(listener)?, address))
        };
        let (api_listener, api_address) =
            listen(listeners.api).context(ExitCode::Internal, cannot)?;
        let (metrics_listener, metrics_address) =
            listen(listeners.metrics).context(ExitCode::Internal, cannot)?;
        let api = Api::new(
            network.gateway().clone(),
            network.ledger().clone(),
            &Limits::default(),
        )
        .context(ExitCode::Failed, cannot)?;

        let (stop, stopped) = watch::channel(false);
        let shutdown = || {
            let mut stopped = stopped.clone();
            async move {
                // A dropped sender means the same.
                let _ = stopped.wait_for(|stop| *stop).await;
            }
        };
        let servers = Self {
            api: tokio::spawn(lemma_node::serve::serve(
                api_listener,
                api.router(),
                shutdown(),
            )),
            metrics: tokio::spawn(lemma_node::serve::serve(
                metrics_listener,
                api.metrics_router(exporter),
                shutdown(),
            )),
            stop,
        };
        Ok((
            servers,
            Endpoints {
                api: api_address,
                metrics: metrics_address,
            },
        ))
    }

    /// Resolves when a server ends though nobody told it to.
    async fn failed(&mut self) -> CommandResult {
        let ended = tokio::select! {
            ended = &mut self.api => ended,
            ended = &mut self.metrics => ended,
        };
        let error = CommandError::new(ExitCode::Internal, "a server ended");
        Err(match ended {
            Ok(Ok(())) => error,
            Ok(Err(failure)) => error.because(&failure),
            Err(failure) => error.because(&failure),
        })
    }

    /// Lets requests in flight end, for a while: one that never ends must not keep the network up.
    async fn stop(self) {
        let _ = self.stop.send(true);
        // What they ended with no longer matters.
        let ended = async { tokio::join!(self.api, self.metrics) };
        let _ = tokio::time::timeout(DRAIN, ended).await;
    }
}
