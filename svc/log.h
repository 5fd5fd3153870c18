/* Log lines on stderr, one write each, with a syslog priority prefix ("<4>") when stderr is the
 * journal's (JOURNAL_STREAM). Any thread; errno is kept. Only svc/ logs. */
#ifndef LARDER_LOG_H
#define LARDER_LOG_H

enum log_level { LOG_ERROR = 3, LOG_WARN = 4, LOG_INFO = 6, LOG_DEBUG = 7 };

void log_setup(enum log_level max);
void log_line(enum log_level level, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
