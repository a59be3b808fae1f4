/** Settings that are changed, refused and held fast; devices that are removed and that leave. */
import { expect, test, type Node } from "./fleet";

interface Shown {
  settings: Record<string, { value: unknown; fixed_by: string | null }>;
}

const value = async (node: Node, name: string) => (await node.get<Shown>("/settings")).settings[name]?.value;

test("a setting holds at once, on the disk and for the others", async ({ fleet, page }) => {
  const first = await fleet.node("kitchen");
  // The name of this one is not fixed by its command line.
  const { ticket } = await first.post<{ ticket: string }>("/invite");
  const second = await fleet.node("", { ticket });
  await page.goto(`${second.url}/#/settings`);

  const name = page.getByRole("textbox", { name: "Name", exact: true });
  await name.fill("Grandma's phone");
  await name.press("Enter");
  await expect(page.getByText("Saved")).toBeVisible();
  await first.until("the other hears the name", ({ nodes }) => nodes.some((it) => it.name === "Grandma's phone"));

  const rate = page.getByRole("textbox", { name: "Download speed" });
  await rate.fill("2,5");
  await rate.press("Tab");
  await expect.poll(() => value(second, "download_bytes_per_s")).toBe(2_500_000);
  await page.getByRole("button", { name: "Download speed: back to the usual value" }).click();
  await expect.poll(() => value(second, "download_bytes_per_s")).toBe(null);
  await expect(rate).toHaveValue("");

  const battery = page.getByRole("textbox", { name: "Battery floor" });
  await battery.fill("99");
  await battery.press("Enter");
  await expect(page.getByRole("alert")).toHaveText("Expected a whole number from 0 to 90");
  expect(await value(second, "battery_floor_percent")).toBe(10);

  await page.getByRole("switch", { name: "Move models by itself" }).check();
  await expect.poll(() => value(second, "auto")).toBe(true);

  await second.kill();
  await second.start();
  await page.reload();
  await expect(name).toHaveValue("Grandma's phone");
  await expect(page.getByRole("switch", { name: "Move models by itself" })).toBeChecked();
});

test("what the command line says is shown and held fast", async ({ fleet, page }) => {
  const node = await fleet.node("kitchen", { args: ["--parallel", "3"] });
  await page.goto(`${node.url}/#/settings`);
  await expect(page.getByRole("textbox", { name: "Answers at once" })).toHaveValue("3");
  await expect(page.getByRole("textbox", { name: "Answers at once" })).toBeDisabled();
  await expect(page.getByRole("textbox", { name: "Name", exact: true })).toBeDisabled();
  await expect(page.getByText("Set on the command line of this device").first()).toBeVisible();
  await expect(page.getByText("shoal serve --lan", { exact: true })).toBeVisible();
});

test("a device leaves, comes back with a ticket, and is removed", async ({ fleet, page }) => {
  const [first, second] = (await fleet.cluster(["kitchen", "old-pixel"])) as [Node, Node];
  await page.goto(`${second.url}/#/settings`);
  await page.getByRole("button", { name: "Leave the cluster" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Leave", exact: true }).click();
  await expect(page.getByText("This device is alone now.")).toBeVisible();
  await second.until("it is alone", ({ nodes }) => nodes.length === 1);

  await page.getByRole("button", { name: "Join another cluster" }).click();
  const ticket = page.getByLabel("Ticket");
  await ticket.fill("shoal-nonsense");
  await page.getByRole("dialog").getByRole("button", { name: "Join", exact: true }).click();
  await expect(page.getByRole("dialog").getByRole("alert")).toBeVisible();
  await ticket.fill((await first.post<{ ticket: string }>("/invite")).ticket);
  await page.getByRole("dialog").getByRole("button", { name: "Join", exact: true }).click();
  await expect(page.getByText("This device belongs to the other cluster now.")).toBeVisible();
  await expect(page.getByRole("listitem").filter({ hasText: "kitchen" })).toContainText("here");

  await page.goto(`${first.url}/#/settings`);
  await page.getByRole("button", { name: "Remove old-pixel" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove", exact: true }).click();
  await first.until("it is removed", ({ nodes }) => nodes.every((it) => it.name !== "old-pixel"));
  await expect(page.getByRole("button", { name: "Remove old-pixel" })).toHaveCount(0);
});
