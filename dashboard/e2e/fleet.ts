/** Real nodes and a stand-in for the hub, as processes on loopback, each with a directory of its own. */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

import { test as base } from "@playwright/test";

/** Where cargo puts what it builds. */
const TARGET = resolve(process.env["CARGO_TARGET_DIR"] ?? "../target", "debug");
/** A debug build on a busy machine. */
const READY_MS = 120_000;

/** A process whose output is read line by line, so that it never waits for a reader. */
class Program {
  readonly #process: ChildProcess;
  readonly #lines: string[] = [];
  readonly #waiting = new Set<() => void>();
  readonly #ended: Promise<void>;

  constructor(program: string, args: string[], env: Record<string, string> = {}) {
    const inherited = Object.entries(process.env).filter(([name]) => !/^(SHOAL_|HF_|OLLAMA_)/.test(name));
    this.#process = spawn(program, args, {
      env: { ...Object.fromEntries(inherited), ...env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    this.#ended = new Promise((done) => this.#process.once("close", () => done()));
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      if (stream === null) continue;
      createInterface({ input: stream }).on("line", (line) => {
        this.#lines.push(line);
        for (const wake of this.#waiting) wake();
      });
    }
    this.#process.once("close", () => {
      for (const wake of this.#waiting) wake();
    });
  }

  /** The part of a line that follows `beginning`, as soon as there is one. */
  async line(beginning: string): Promise<string> {
    const deadline = Date.now() + READY_MS;
    for (;;) {
      const line = this.#lines.find((it) => it.startsWith(beginning));
      if (line !== undefined) return line.slice(beginning.length);
      const isOver = this.#process.exitCode !== null || this.#process.signalCode !== null;
      if (isOver || Date.now() > deadline) {
        throw new Error(`no line begins with "${beginning}":\n${this.#lines.slice(-20).join("\n")}`);
      }
      await new Promise<void>((wake) => {
        const timer = setTimeout(wake, 1000);
        this.#waiting.add(() => {
          clearTimeout(timer);
          wake();
        });
      });
      this.#waiting.clear();
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    this.#process.stdin?.end();
    this.#process.kill(signal);
    await this.#ended;
  }
}

export interface NodeOptions {
  /** Joins the cluster of the node that made this ticket. */
  ticket?: string;
  /** Further arguments. */
  args?: string[];
  /** Where the hub is. */
  hub?: string;
}

/** A node. Without a name it gives itself one, which can be changed. */
export class Node {
  readonly name: string;
  /** Without a slash at its end. */
  url = "";
  readonly #directory: string;
  readonly #options: NodeOptions;
  #program: Program | undefined;

  constructor(name: string, options: NodeOptions) {
    this.name = name;
    this.#options = options;
    this.#directory = mkdtempSync(join(tmpdir(), "shoal-e2e-"));
  }

  async start(): Promise<void> {
    const { ticket, args = [], hub = "http://127.0.0.1:1" } = this.#options;
    // A page that is reloaded after a restart has to find its node where it was.
    const listen = this.url === "" ? "127.0.0.1:0" : this.url.replace("http://", "");
    const join_ = ticket === undefined ? [] : ["--join", ticket];
    const named = this.name === "" ? [] : ["--name", this.name];
    const all = ["serve", "--interface", "lo", "--no-caches", "--threads", "1", ...named, "--listen", listen];
    this.#program = new Program(join(TARGET, "shoal"), [...all, "--data-dir", this.#directory, ...join_, ...args], {
      HF_ENDPOINT: hub,
      HF_HOME: "/nonexistent",
    });
    this.url = (await this.#program.line("Shoal is ready: ")).trim().replace(/\/$/, "");
  }

  /** Its death without a goodbye. */
  async kill(): Promise<void> {
    await this.#program?.end("SIGKILL");
    this.#program = undefined;
  }

  /** Lets it run for a moment in every tenth of a second only, so that an answer takes as long as on a phone. */
  async slowly(act: () => Promise<void>): Promise<void> {
    const program = this.#program;
    let isSlow = true;
    const beat = async (): Promise<void> => {
      while (isSlow) {
        program?.signal("SIGSTOP");
        await new Promise((wake) => setTimeout(wake, 90));
        program?.signal("SIGCONT");
        await new Promise((wake) => setTimeout(wake, 10));
      }
    };
    const beating = beat();
    try {
      await act();
    } finally {
      isSlow = false;
      await beating;
    }
  }

  async get<T>(path: string): Promise<T> {
    const response = await fetch(this.url + path);
    if (!response.ok) throw new Error(`GET ${path}: ${response.status} ${await response.text()}`);
    return (await response.json()) as T;
  }

  async post<T>(path: string, body: unknown = {}): Promise<T> {
    const headers = { "content-type": "application/json" };
    const response = await fetch(this.url + path, { method: "POST", headers, body: JSON.stringify(body) });
    if (!response.ok) throw new Error(`POST ${path}: ${response.status} ${await response.text()}`);
    return (await response.json()) as T;
  }

  async delete(path: string): Promise<void> {
    await fetch(this.url + path, { method: "DELETE" });
  }

  /** Waits until the state of the cluster is as `holds` wants it. */
  async until(what: string, holds: (state: State) => boolean): Promise<State> {
    const deadline = Date.now() + READY_MS;
    for (;;) {
      const state = await this.get<State>("/state");
      if (holds(state)) return state;
      if (Date.now() > deadline) throw new Error(`${what}: ${JSON.stringify(state)}`);
      await new Promise((wake) => setTimeout(wake, 100));
    }
  }

  async end(): Promise<void> {
    await this.kill();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** As much of `GET /state` as tests look at. */
export interface State {
  nodes: { id: string; name: string; liveness: string; is_self: boolean }[];
  instances: { id: string; model: string; state: string; placement: { node: string; layers: [number, number] }[] }[];
}

/** Everything that one test has started. */
export class Fleet {
  readonly #nodes: Node[] = [];
  readonly #hubs: Program[] = [];

  async node(name: string, options: NodeOptions = {}): Promise<Node> {
    const node = new Node(name, options);
    this.#nodes.push(node);
    await node.start();
    return node;
  }

  /** Some nodes that belong together and know each other. */
  async cluster(names: string[], options: NodeOptions = {}): Promise<Node[]> {
    const [first = "", ...others] = names;
    const nodes = [await this.node(first, options)];
    const [host] = nodes as [Node];
    const { ticket } = await host.post<{ ticket: string }>("/invite");
    for (const name of others) nodes.push(await this.node(name, { ...options, ticket }));
    const isThere = (state: State) => state.nodes.filter((it) => it.liveness === "alive").length === names.length;
    for (const node of nodes) await node.until("all nodes are there", isThere);
    return nodes;
  }

  /** A hub that has some files in one repository and gives at most so many bytes in a second; returns its address. */
  async hub(repo: string, files: string[], bytesPerS: number): Promise<string> {
    const args = ["--repo", repo, "--bytes-per-s", String(bytesPerS), ...files];
    const hub = new Program(join(TARGET, "examples", "serve"), args);
    this.#hubs.push(hub);
    return hub.line("HF_ENDPOINT=");
  }

  async end(): Promise<void> {
    await Promise.all(this.#nodes.map((node) => node.end()));
    await Promise.all(this.#hubs.map((hub) => hub.end("SIGTERM")));
  }
}

/** A test that has a fleet, which ends with it. */
export const test = base.extend<{ fleet: Fleet }>({
  fleet: async ({}, use) => {
    const fleet = new Fleet();
    await use(fleet);
    await fleet.end();
  },
});

export { expect } from "@playwright/test";
