// Before the tables are parsed: what is not chosen is then never laid out.
document.documentElement.classList.add("scripted");
