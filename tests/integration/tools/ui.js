// SPDX-License-Identifier: LGPL-2.1-or-later
// Looks at the page of `cbt-backup ui` in a headless Chromium: ui.js PLAYWRIGHT URL FOLDER. Takes screenshots into FOLDER, and
// fails with what is not as it should be.
'use strict';

const assert = require('node:assert');
const [playwright, url, folder] = process.argv.slice(2);
const { chromium } = require(playwright);

const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];

async function check(page) {
  const complaints = [];
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('request', (request) => request.url().startsWith(new URL(url).origin + '/') || complaints.push('asks ' + request.url()));
  await page.goto(url);
  assert.ok(!page.url().includes('token'), 'the token stays in the address');
  await page.waitForSelector('.vm');

  // What is there, by what assistive technology sees.
  for (const name of ['Vms', 'Jobs', 'Store', 'bare'])
    assert.ok(await page.getByRole('heading', { name, exact: true }).count(), 'no heading ' + name);
  for (const role of ['main', 'banner', 'complementary']) assert.equal(await page.getByRole(role).count(), 1, 'landmark ' + role);
  assert.match(await page.locator('#attention').innerText(), /vm bare has no good recovery point/);

  // Another vm, by keyboard alone; its map and its points.
  await page.getByRole('link', { name: /^web/ }).focus();
  await page.keyboard.press('Enter');
  await page.waitForSelector('.vm[aria-current=true] >> text=web');
  await page.getByRole('heading', { name: 'web', exact: true }).waitFor();
  const map = page.getByRole('img', { name: /Map of root: 8.0 MiB, .* 192 KiB changed since/ });
  await map.waitFor();
  assert.ok(await map.evaluate((canvas) => canvas.width > 100 && canvas.height > 10), 'the map is not painted');
  assert.equal(await page.locator('#points tbody tr').count(), 2);
  assert.equal(await page.locator('#timeline rect').count(), 2);
  const outline = await page.locator('.vm[aria-current=true]').evaluate((link) => { link.focus(); return getComputedStyle(link).outlineStyle; });
  assert.notEqual(outline, 'none', 'focus cannot be seen');

  // A job at work moves.
  const job = page.locator('.job', { hasText: 'full backup of slow' });
  await job.getByText(/[1-9][0-9]* %/).waitFor({ timeout: 20000 });
  await page.screenshot({ path: folder + '/job.png' });

  // An address that names no vm shows the first one.
  await page.evaluate(() => { location.hash = '#vm=%'; });
  await page.waitForSelector('.vm[aria-current=true] >> text=bare');
  await page.evaluate(() => { location.hash = '#vm=web'; });
  await page.waitForSelector('.vm[aria-current=true] >> text=web');
  return complaints;
}

async function main() {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: flags });
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  const complaints = await check(page);
  for (const colorScheme of ['light', 'dark'])
    for (const width of [1280, 390]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `it is wider than ${width}`);
      await page.screenshot({ path: `${folder}/${colorScheme}-${width}.png`, fullPage: true });
    }
  assert.deepEqual(complaints, []);

  // Another browser has no cookie, and the token is used.
  const other = await browser.newContext();
  const answer = await (await other.newPage()).goto(url);
  assert.equal(answer.status(), 403);
  await browser.close();
}

main().catch((error) => {
  console.error(error.message || error);
  process.exit(1);
});
