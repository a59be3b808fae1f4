/** Home: the devices as they are, in the picture and as cards, and what can be done with them. */
import type { Locator, Page } from "@playwright/test";

import { expect, test, type Node } from "./fleet";

const picture = (page: Page): Locator => page.getByRole("region", { name: "Your devices" });
const card = (page: Page, name: string): Locator =>
  page.getByRole("region", { name: "Devices", exact: true }).getByRole("listitem").filter({ has: page.getByRole("heading", { name, exact: true }) });
/** Dots that travel along the links. */
const dots = (page: Page): Locator => picture(page).locator("svg g > circle");

/** Chooses something from a device's menu and says yes to what it will do. */
async function choose(page: Page, name: string, what: string): Promise<void> {
  await page.getByRole("button", { name: `What to do with ${name}` }).click();
  await page.getByRole("menuitem", { name: what }).click();
  await page.getByRole("dialog").getByRole("button", { name: what }).click();
  await expect(page.getByRole("dialog")).toHaveCount(0);
}

/** Two devices that share one model, and nothing else. */
async function shared(nodes: Node[]): Promise<void> {
  const [node] = nodes as [Node];
  const { instances } = await node.until("each has its own model", (state) => state.instances.length >= nodes.length);
  for (const { id } of instances) await node.delete(`/instance/${id}`);
  await node.post("/place_instance", { model: "demo", nodes: 2 });
  await node.until("the model is shared", (state) => {
    return state.instances.length === 1 && state.instances[0]?.state === "ready" && state.instances[0].placement.length === 2;
  });
}

function ask(node: Node, tokens: number): Promise<unknown> {
  const messages = [{ role: "user", content: "Tell me a long story." }];
  return node.post("/v1/chat/completions", { model: "demo", max_tokens: tokens, messages });
}

test("every device is in the picture and a card, and names stay text", async ({ fleet, page }) => {
  const nasty = "<img src=x onerror=\"document.title='run'\">\u202ephone";
  const [node] = (await fleet.cluster(["kitchen", nasty])) as [Node, Node];
  await page.goto(node.url);
  await expect(page.getByRole("heading", { level: 1 })).toContainText("2 devices, demo ready");
  await expect(page.getByText("Everything is as it should be.")).toBeVisible();

  const image = picture(page).getByRole("img");
  await expect(image).toHaveAccessibleName(/A picture of your devices.*kitchen, here, demo, all \d+ layers/);
  for (const name of ["kitchen", nasty]) {
    await picture(page).getByRole("button", { name: `About ${name}` }).click();
    await expect(card(page, name)).toBeFocused();
    await expect(card(page, name)).toContainText("memory in use");
    await expect(card(page, name)).toContainText("demo, all");
  }
  await expect(card(page, nasty)).toContainText("away");
  await expect(card(page, "kitchen")).toContainText("this one");
  await card(page, "kitchen").getByText("All about it").click();
  await expect(card(page, "kitchen")).toContainText("127.0.0.1");
  expect(await page.locator("main img").count()).toBe(0);
  expect(await page.title()).toBe("Shoal");
});

test("what is computed is seen travelling, unless motion is unwelcome", async ({ fleet, page }) => {
  const nodes = await fleet.cluster(["kitchen", "old-pixel"]);
  const [node] = nodes as [Node];
  await shared(nodes);
  await page.goto(node.url);
  const headline = page.getByRole("heading", { level: 1 });
  await expect(headline).toContainText("2 devices, demo ready");
  await expect(picture(page).getByRole("img")).toHaveAccessibleName(/demo, layers? \d.*demo, layers? \d/);

  const moved = page.waitForFunction(() => document.querySelector("section.picture svg g > circle") !== null);
  const told = expect(headline).toContainText("demo answers at");
  await Promise.all([moved, told, ask(node, 300)]);
  // What has arrived leaves nothing behind.
  await expect(dots(page)).toHaveCount(0);
  await expect(headline).toContainText("demo ready");

  await page.emulateMedia({ reducedMotion: "reduce" });
  await page.evaluate(() => {
    const seen = window as unknown as { nDots: number };
    seen.nDots = 0;
    const layer = document.querySelector("section.picture svg g");
    if (layer !== null) new MutationObserver((all) => (seen.nDots += all.length)).observe(layer, { childList: true });
  });
  await Promise.all([expect(headline).toContainText("demo answers at"), ask(node, 300)]);
  expect(await page.evaluate(() => (window as unknown as { nDots: number }).nDots)).toBe(0);
});

test("a device is emptied and put to work again by clicks", async ({ fleet, page }) => {
  const nodes = await fleet.cluster(["kitchen", "old-pixel"]);
  const [node] = nodes as [Node];
  await shared(nodes);
  await page.goto(node.url);
  await expect(card(page, "old-pixel")).toContainText(/demo, layers? \d/);

  await page.getByRole("button", { name: "What to do with old-pixel" }).click();
  await page.getByRole("menuitem", { name: "Empty it" }).click();
  await expect(page.getByRole("dialog")).toContainText("Its part of demo moves to the others");
  await page.keyboard.press("Escape");

  await choose(page, "old-pixel", "Empty it");
  await expect(card(page, "old-pixel")).toContainText("handing over");
  await expect(page.getByText("old-pixel gives its part of the models to the others.")).toBeVisible();
  await expect(card(page, "old-pixel")).toContainText("Holds no part of a model now");
  await expect(card(page, "kitchen")).toContainText("demo, all");

  await choose(page, "old-pixel", "Let it work again");
  await expect(card(page, "old-pixel")).not.toContainText("handing over");
  await expect(page.getByText("Everything is as it should be.")).toBeVisible();
});

test("a killed device is shown as lost, comes back, and can be removed", async ({ fleet, page }) => {
  const [node, other] = (await fleet.cluster(["kitchen", "old-pixel"])) as [Node, Node];
  await page.goto(node.url);
  await expect(card(page, "old-pixel")).toContainText("here");
  await other.kill();
  await expect(card(page, "old-pixel")).toContainText("not reachable");
  await expect(card(page, "old-pixel")).toContainText("The others go on without it.");
  await expect(page.getByText("old-pixel cannot be reached.")).toBeVisible();
  await expect(page.getByRole("heading", { level: 1 })).toContainText("1 device");
  await expect(picture(page).getByRole("img")).toHaveAccessibleName(/old-pixel, not reachable/);

  await other.start();
  await expect(card(page, "old-pixel")).not.toContainText("not reachable");
  await expect(page.getByRole("heading", { level: 1 })).toContainText("2 devices");

  await other.kill();
  await expect(card(page, "old-pixel")).toContainText("not reachable");
  await choose(page, "old-pixel", "Remove");
  await expect(card(page, "old-pixel")).toHaveCount(0);
  // Its place is free for another one.
  await expect(picture(page).getByRole("link", { name: "Add a device" })).toBeVisible();
});
