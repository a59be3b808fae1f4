/** Numbers of downloads. */
import type { Download } from "./types";

/** In percent, and never 100 before everything is there. */
export function done(download: Pick<Download, "n_bytes" | "n_total">): number | null {
  if (download.n_total <= 0) return null;
  const percent = Math.floor((download.n_bytes / download.n_total) * 100);
  return download.n_bytes < download.n_total ? Math.min(99, Math.max(0, percent)) : 100;
}

/** Milliseconds until it is complete: what the node says, else by the speed; `null` where nobody can tell. */
export function remainingMs(download: Download): number | null {
  if (download.state !== "running") return null;
  if (download.remaining_s !== null) return download.remaining_s * 1000;
  const left = download.n_total - download.n_bytes;
  return download.bytes_per_s > 1 && left > 0 ? (left / download.bytes_per_s) * 1000 : null;
}

/** Which share came from other devices, in percent; `null` before anything came. */
export function fromPeers(download: Download): number | null {
  const all = download.from_hub + download.from_peers;
  return all > 0 ? Math.round((download.from_peers / all) * 100) : null;
}

/** Those under way first, then those that wait for somebody. */
export function inOrder(downloads: Download[]): Download[] {
  const rank = { running: 0, paused: 1, failed: 2, complete: 3 };
  return downloads
    .filter((it) => it.state !== "complete")
    .sort((a, b) => rank[a.state] - rank[b.state] || a.model.localeCompare(b.model));
}
