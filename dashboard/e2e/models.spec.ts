/** Getting a model and starting it. */
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { expect, test } from "./fleet";

const REPO = "shoal/little-GGUF";
/** The demonstration model as somebody might have published it. */
const MODEL = "../crates/hub/demo/shoal-demo.gguf";
/** A download of a few seconds. */
const BYTES_PER_S = 200_000;

test("a model is found, fetched with a pause, and started over two devices", async ({ fleet, page }) => {
  const directory = mkdtempSync(join(tmpdir(), "shoal-e2e-hub-"));
  try {
    const file = join(directory, "little-Q8_0.gguf");
    copyFileSync(MODEL, file);
    const hub = await fleet.hub(REPO, [file], BYTES_PER_S);
    const [node] = await fleet.cluster(["kitchen", "old-pixel"], { hub });
    if (node === undefined) throw new Error("no node");

    await page.goto(`${node.url}/#/models/hub`);
    await page.getByLabel("Search Hugging Face").fill("little");
    await page.getByRole("button", { name: "Search", exact: true }).click();
    await page.getByRole("button", { name: `Get… ${REPO}` }).click();
    await page.getByLabel("Quantisation").selectOption("Q8_0");
    await page.getByRole("button", { name: "Download only" }).click();

    const bar = page.getByRole("progressbar", { name: /^Download of / });
    const percent = async () => Number(await bar.getAttribute("aria-valuenow"));
    await expect.poll(percent, { intervals: [50] }).toBeGreaterThan(40);
    await page.getByRole("button", { name: /^Pause: / }).click();
    await expect(page.getByText("Paused")).toBeVisible();
    expect(await percent()).toBeLessThan(100);
    await page.getByRole("button", { name: /^Resume: / }).click();
    await expect(page.getByText("Paused")).toHaveCount(0);
    // Pieces that were not whole at the pause are fetched again, whole ones are not.
    expect(await percent(), "it began anew").toBeGreaterThan(15);
    await expect(bar).toHaveCount(0);

    await page.goto(`${node.url}/#/models/space`);
    await expect(page.getByRole("main")).toContainText("little");
    await page.goto(`${node.url}/#/models/hub`);
    await page.getByLabel("Search Hugging Face").fill("little");
    await page.getByRole("button", { name: "Search", exact: true }).click();
    await page.getByRole("button", { name: `Get… ${REPO}` }).click();
    await page.getByLabel("Quantisation").selectOption("Q8_0");
    await page.getByLabel("At least").selectOption("2");
    await page.getByRole("button", { name: "Start", exact: true }).click();
    const state = await node.until("it runs", ({ instances }) => instances.some((it) => it.model.includes("little") && it.state === "ready"));
    const instance = state.instances.find((it) => it.model.includes("little"));
    expect(instance?.placement.length).toBe(2);

    await page.goto(`${node.url}/#/models`);
    await page.getByRole("link", { name: /^Chat: .*little/i }).first().click();
    await page.locator("#chat-message").fill("What is Shoal?");
    await page.getByRole("button", { name: "Send" }).click();
    await expect(page.locator("article.answer")).toHaveAttribute("aria-busy", "false");
    await expect(page.locator("article.answer .markdown")).toContainText(/\w/);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
