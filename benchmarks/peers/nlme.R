# lme of nlme: a random term of one grouping factor, with or without AR(1) residuals.

packages <- "nlme"

refuses <- function(problem) {
  if (problem$family != "gaussian" || grepl("\\|.*\\|", problem$formula)) return("gaussian, one grouping factor only")
  if (problem$residual != "" && !startsWith(problem$residual, "ar1(")) "AR(1) only" else ""
}

fit <- function(data, problem) {
  fixed <- as.formula(sub(" \\+ \\(.*", "", problem$formula))
  random <- as.formula(paste("~", gsub(".*\\((.*)\\).*", "\\1", problem$formula)))
  places <- sub("^ar1\\((.*)\\)$", "\\1", problem$residual)
  correlation <- if (problem$residual == "") NULL else nlme::corAR1(form = as.formula(paste("~", places)))
  fitted <- nlme::lme(fixed, data, random, correlation, method = "ML")
  stats::vcov(fitted)
  fitted
}

answer <- function(fitted, data, problem) {
  list(loglik = as.numeric(logLik(fitted)), beta = unname(nlme::fixef(fitted)))
}
