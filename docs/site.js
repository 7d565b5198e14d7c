// What scrolls can be scrolled with the keyboard.
document$.subscribe(() => {
  const boxes = ".md-typeset__scrollwrap, .highlight-ipynb, .jp-OutputArea-output, .jp-OutputArea-output > div, .jp-OutputArea-output pre";
  for (const box of document.querySelectorAll(boxes)) {
    if (box.scrollWidth > box.clientWidth || box.matches(".md-typeset__scrollwrap")) box.tabIndex = 0;
  }
});
