//! `cargo dev cluster`: a real Kubernetes on this machine.

use anyhow::Result;
use clap::Subcommand;

use super::go::MINIO;
use super::steps::Steps;
use super::tools::provide_postgres;
use crate::cluster::{Cluster, chart, example, programs};
use crate::image::product;

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Starts a Kubernetes with Leasehold installed by Helm, services beside it, and a first server and account.
    Up {
        /// Kubernetes alone.
        #[arg(long)]
        bare: bool,
    },
    /// Ends it and gives the machine back as it was.
    Down,
    /// Says what runs and how to use it.
    Status,
    /// Is the services beside the cluster; `up` starts this.
    #[command(hide = true)]
    Services,
}

/// Does what was asked.
pub fn run(command: &ClusterCommand) -> Result<()> {
    let cluster = Cluster::of_workspace();
    match command {
        ClusterCommand::Up { bare } => {
            let mut steps = Steps::new(&[]);
            start(&cluster, &mut steps)?;
            if !bare {
                provide_images(&cluster, &mut steps)?;
                steps.run("cluster: chart", || chart::install(&cluster))?;
                steps.run("cluster: first server", || {
                    provide_postgres()?;
                    MINIO.provide()?;
                    example::start(&cluster)
                })?;
            }
            steps.finish()?;
            println!("\n{}", cluster.status()?);
            Ok(())
        }
        ClusterCommand::Down => cluster.down(),
        ClusterCommand::Services => example::serve(&cluster),
        ClusterCommand::Status => {
            print!("{}", cluster.status()?);
            Ok(())
        }
    }
}

/// Starts what does not run of Kubernetes itself.
pub fn start(cluster: &Cluster, steps: &mut Steps) -> Result<()> {
    steps.run("cluster: programs", programs::provide)?;
    steps.run("cluster: Kubernetes", || cluster.up())
}

/// Builds the images of the workspace and gives them to the cluster.
pub fn provide_images(cluster: &Cluster, steps: &mut Steps) -> Result<()> {
    steps.run("cluster: images", || product::build()?.iter().try_for_each(|image| cluster.import(image)))
}

/// Builds the images and prints their digests.
pub fn build_images() -> Result<()> {
    for image in product::build()? {
        println!("{}\n  {}\n  {}", image.reference, image.digest, image.archive.display());
    }
    Ok(())
}
