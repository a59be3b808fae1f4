import { defineConfig } from "@playwright/test";

/**
 * The browser: `cargo xtask dashboard --check` finds one or installs it. All but the last flags keep it from asking its maker's servers for
 * anything; a node's name in the local network leads to this machine.
 */
const FLAGS = [
  "--no-first-run",
  "--disable-quic",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-gpu",
  "--no-sandbox",
  "--host-resolver-rules=MAP *.local 127.0.0.1",
];
const executablePath = process.env["CHROMIUM"];

export default defineConfig({
  testDir: "e2e",
  outputDir: "../target/dashboard-e2e",
  // Real nodes on a machine of two cores: patience instead of retries.
  timeout: 180_000,
  expect: { timeout: 60_000 },
  workers: 1,
  retries: 0,
  reporter: [["list"]],
  use: {
    locale: "en-GB",
    trace: "retain-on-failure",
    launchOptions: { args: FLAGS, ...(executablePath === undefined ? {} : { executablePath }) },
  },
});
