/** The doctor: what it finds, and that what the page itself notices is told. */
import { expect, test } from "./fleet";

test("checks are shown with what to do, and the page's own turn with the node's death", async ({ fleet, page, context }) => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const node = await fleet.node("kitchen");
  await page.goto(`${node.url}/#/doctor`);
  const { checks } = await node.get<{ checks: { title: string; state: string; found: string }[] }>("/doctor/network");
  const judged = checks.filter((it) => it.state !== "skipped");
  for (const { title, found } of judged) {
    const item = page.getByRole("listitem").filter({ hasText: title });
    await expect(item).toContainText(found);
  }
  // The node knows one network, loopback, and says that this is none.
  await expect(page.locator("[data-check=network]")).toContainText("What to do");
  const stream = page.locator("[data-check=stream]");
  await expect(stream).toContainText("well");

  await page.getByRole("button", { name: "Copy the report" }).click();
  await expect(page.getByText("The report was copied.")).toBeVisible();
  const report = await page.evaluate(() => navigator.clipboard.readText());
  expect(report).toContain("[well] The page hears what changes");
  expect(report).not.toMatch(/shoal2[a-z0-9]/);

  await node.kill();
  await expect(stream).toContainText("wrong");
  await page.getByRole("button", { name: "Check again" }).click();
  await expect(page.locator("[data-check=answers]")).toContainText("It does not answer.");
  await node.start();
  await expect(stream).toContainText("well");
  await page.getByRole("button", { name: "Check again" }).click();
  await expect(page.locator("[data-check=answers]")).toContainText("It answered within");
});
