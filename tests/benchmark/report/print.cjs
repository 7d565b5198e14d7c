// What a report on paper would clip: node print.cjs REPORT.html REPORT.pdf, JSON on standard output.
const path = require("node:path");
const { chromium } = require(path.join(process.env.ROBUSTVOX_NODE_MODULES, "playwright-core"));

const WIDTH = 1032; // A4 landscape less margins of 12 mm, in CSS pixels

function clipped(width) {
  return [...document.querySelectorAll("th, td, img, pre, li, dd")]
    .filter((cell) => cell.getBoundingClientRect().right > width + 0.5 || cell.scrollWidth > cell.clientWidth + 1)
    .map((cell) => `${cell.tagName} ${cell.textContent.slice(0, 40)}`);
}

(async () => {
  const [report, pdf] = process.argv.slice(2);
  const browser = await chromium.launch({ executablePath: process.env.ROBUSTVOX_CHROMIUM, args: ["--no-sandbox"] });
  const page = await browser.newPage({ viewport: { width: WIDTH, height: 703 }, colorScheme: "dark" });
  const console_ = [];
  page.on("console", (message) => console_.push(message.text()));
  await page.goto(`file://${path.resolve(report)}`);
  await page.emulateMedia({ media: "print", colorScheme: "dark" });
  const print = {
    cells: await page.locator("td").count(),
    clipped: await page.evaluate(clipped, WIDTH),
    background: await page.evaluate(() => getComputedStyle(document.body).backgroundColor),
    folded: await page.evaluate(() => document.querySelector("details td").getBoundingClientRect().height),
  };
  await page.pdf({ path: pdf, preferCSSPageSize: true, printBackground: true });
  await page.emulateMedia({ media: "screen" });
  const widths = {};
  for (const width of [1440, 390]) {
    await page.setViewportSize({ width, height: 900 });
    widths[width] = await page.evaluate(() => document.documentElement.scrollWidth);
  }
  await browser.close();
  console.log(JSON.stringify({ console: console_, print, widths }));
})();
