// Opens the page in headless Chromium and prints what happened as JSON; the assertions are in test_browser.py.
//   node browser.cjs all|time PAGE [FOLDER FOR SCREENSHOTS]
"use strict";
const path = require("path");
const fs = require("fs");
const { pathToFileURL } = require("url");
const modules = process.env.ROBUSTVOX_NODE_MODULES;
const { chromium } = require(path.join(modules, "playwright-core"));
const [, , what, page, screenshots] = process.argv;
const address = pathToFileURL(path.resolve(page)).href;

const VIEWS = {
  desktop: { viewport: { width: 1400, height: 900 }, colorScheme: "light" },
  dark: { viewport: { width: 1400, height: 900 }, colorScheme: "dark" },
  phone: { viewport: { width: 390, height: 844 }, colorScheme: "light", isMobile: true, hasTouch: true },
  "phone dark": { viewport: { width: 390, height: 844 }, colorScheme: "dark", isMobile: true, hasTouch: true },
};

async function open(browser, options, facts, hash = "") {
  const tab = await browser.newPage(options);
  tab.on("console", (message) => facts.console.push(`${message.type()}: ${message.text()}`));
  tab.on("pageerror", (error) => facts.console.push(`uncaught: ${error.message}`));
  tab.on("dialog", (dialog) => facts.dialogs.push(dialog.message()) && dialog.dismiss());
  tab.on("request", (request) => facts.requests.push(request.url()));
  await tab.goto(address + hash);
  return tab;
}

const column = (tab, index) =>
  tab.$$eval(".dataset.on .board tbody tr", (rows, i) => rows.map((row) => row.cells[i].textContent.trim()), index);

async function sorting(tab) {
  const found = [];
  const headers = await tab.$$(".dataset.on .board thead th");
  for (const [index, header] of headers.entries()) {
    const button = await header.$("button");
    const numeric = await header.evaluate((cell) => cell.classList.contains("n"));
    const entry = { heading: await button.textContent(), numeric };
    for (const direction of ["ascending", "descending"]) {
      await button.focus();
      await tab.keyboard.press("Enter");
      const marked = await tab.$$eval(".dataset.on .board th[aria-sort]", (cells) => cells.map((cell) => cell.getAttribute("aria-sort")));
      entry[direction] = { marked, texts: await column(tab, index) };
    }
    found.push(entry);
  }
  return found;
}

async function filtering(tab) {
  const found = [];
  for (const select of await tab.$$(".dataset.on .filters select")) {
    const key = await select.getAttribute("data-key");
    const values = await select.$$eval("option", (options) => options.map((option) => option.value));
    for (const value of values) {
      await select.selectOption(value);
      const status = await tab.textContent(".dataset.on .count");
      const rows = await tab.$$eval(".dataset.on .board tbody tr", (all, key) => {
        const heads = [...all[0].closest("table").tHead.rows[0].cells];
        const index = heads.findIndex((head) => head.dataset.key === key);
        return all.filter((row) => row.getClientRects().length).map((row) => (index < 0 ? row.dataset[key] : row.cells[index].textContent));
      }, key);
      found.push({ key, value, status, rows });
    }
    await tab.click(".dataset.on [data-reset]");
  }
  return found;
}

// A search and a filter, the address they leave, and what a page opened at that address shows.
async function linking(browser, tab, facts) {
  const rows = (of) => of.$$eval(".dataset.on .board tbody tr", (all) => all.filter((row) => row.getClientRects().length).map((row) => [...row.cells].slice(0, 2).map((cell) => cell.textContent)));
  await tab.fill(".dataset.on .search input", "UNETR 4/255");
  await tab.waitForTimeout(400);
  const found = { searched: await rows(tab), hash: new URL(tab.url()).hash };
  await tab.fill(".dataset.on .search input", "pgd");
  await tab.selectOption(".dataset.on select[data-key=model]", "unet");
  await tab.waitForTimeout(400);
  found.both = { rows: await rows(tab), hash: new URL(tab.url()).hash };
  const other = await open(browser, VIEWS.desktop, facts, new URL(tab.url()).hash);
  found.opened = await rows(other);
  await tab.click(".dataset.on [data-reset]");
  found.reset = new URL(tab.url()).hash;
  return found;
}

// Which columns of a table lie within the screen, without scrolling it.
const seenColumns = (tab, table) =>
  tab.$eval(`.dataset.on ${table}`, (found) => [...found.tHead.rows[0].cells].filter((cell) => cell.getBoundingClientRect().right <= innerWidth).map((cell) => cell.textContent.replace(/[↕↑↓]/g, "").trim()));

async function explaining(tab) {
  const state = () => tab.$eval("#tip", (tip) => ({ shown: tip.getClientRects().length > 0, text: tip.textContent }));
  const flag = tab.locator(".dataset.on .flag").first();
  const title = await flag.getAttribute("title");
  const facts = { title };
  await flag.focus();
  await tab.waitForTimeout(100);
  facts.focus = { ...(await state()), describedBy: await flag.getAttribute("aria-describedby") };
  await tab.keyboard.press("Escape");
  facts.escape = await state();
  await flag.hover();
  facts.hover = await state();
  await tab.mouse.move(1, 1);
  await tab.waitForTimeout(400);
  facts.away = await state();
  facts.restored = await flag.getAttribute("title");
  const header = tab.locator(".dataset.on .board thead button").nth(4);
  await header.focus();
  facts.header = await state();
  await tab.keyboard.press("Escape");
  return facts;
}

async function choosing(tab) {
  const visible = () => tab.$$eval(".dataset", (all) => all.filter((one) => one.getClientRects().length).map((one) => one.id));
  const panels = () => tab.$$eval(".dataset.on .picker", (all) => all.map((one) => [...one.querySelectorAll(".panel")].map((panel) => panel.getClientRects().length > 0)));
  const facts = { first: await visible(), panels: await panels() };
  const selects = await tab.$$(".dataset.on [data-pick]");
  await selects.at(-1).selectOption("1");
  facts.picked = (await panels()).at(-1);
  await tab.click("nav li:nth-child(2) a");
  await tab.waitForTimeout(50);
  facts.second = await visible();
  facts.current = await tab.$$eval("nav a[aria-current]", (links) => links.map((link) => link.hash));
  await tab.goBack();
  await tab.waitForTimeout(50);
  facts.back = await visible();
  return facts;
}

async function accessibility(tab) {
  const source = fs.readFileSync(path.join(modules, "axe-core", "axe.min.js"), "utf8");
  await tab.evaluate(source); // through the debugger, which the page's policy does not bind
  await tab.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));
  const result = await tab.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  return result.violations.map(({ id, impact, nodes }) => ({ id, impact, count: nodes.length, first: nodes[0].html.slice(0, 300), why: nodes[0].failureSummary }));
}

async function timing(browser) {
  const found = { milliseconds: [], processor: [] };
  for (let i = 0; i < 5; i++) {
    const tab = await browser.newPage(VIEWS.desktop);
    const devtools = await tab.context().newCDPSession(tab);
    await devtools.send("Performance.enable", { timeDomain: "threadTicks" });
    await tab.goto(address, { waitUntil: "commit" });
    found.milliseconds.push(await tab.evaluate(() => new Promise((done) => {
      const frame = () => requestAnimationFrame(() => setTimeout(() => done(performance.now())));
      if (document.readyState === "complete") frame();
      else addEventListener("load", frame);
    })));
    const { metrics } = await devtools.send("Performance.getMetrics");
    found.processor.push(1000 * metrics.find((metric) => metric.name === "TaskDuration").value);
    await tab.close();
  }
  return found;
}

async function everything(browser) {
  const facts = { console: [], dialogs: [], requests: [], axe: {}, overflow: {}, columns: {} };
  const tab = await open(browser, VIEWS.desktop, facts);
  facts.explaining = await explaining(tab);
  facts.filtering = await filtering(tab);
  facts.linking = await linking(browser, tab, facts);
  facts.sorting = await sorting(tab);
  facts.choosing = await choosing(tab);
  for (const [name, view] of Object.entries(VIEWS)) {
    const seen = await open(browser, view, facts);
    if (screenshots) await seen.screenshot({ path: path.join(screenshots, `${name.replace(" ", "_")}.png`), fullPage: true });
    facts.overflow[name] = await seen.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    facts.columns[name] = { board: await seenColumns(seen, ".board"), transfer: await seenColumns(seen, ".transfer") };
    facts.axe[name] = await accessibility(seen);
  }
  const plain = await open(browser, { ...VIEWS.desktop, javaScriptEnabled: false }, facts);
  facts.plain = await plain.$$eval(".dataset, .panel", (all) => all.map((one) => one.offsetHeight > 0)).catch(() => null);
  facts.address = address;
  return facts;
}

(async () => {
  const browser = await chromium.launch({
    executablePath: process.env.ROBUSTVOX_CHROMIUM || undefined,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
  });
  try {
    const facts = what === "time" ? await timing(browser) : await everything(browser);
    console.log(JSON.stringify(facts));
  } finally {
    await browser.close();
  }
})();
