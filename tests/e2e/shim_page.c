#include "shim_page.h"
#include "kernel.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The shim's page is the only one that a fork wipes. */
struct shim_page *find_page(void)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];
	unsigned long start = 0, at, end;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &at, &end) == 2)
			start = at;
		else if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " wf"))
			break;
		else
			continue;
	}
	bool found = f && !feof(f);
	if (f)
		fclose(f);
	return found ? (struct shim_page *)start : NULL;
}

bool has_agent(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;
	bool found = false;

	while (proc && !found && (e = readdir(proc))) {
		int pid = atoi(e->d_name);
		found = pid > 0 && pid != getpid() &&
			syscall(SYS_kcmp, getpid(), pid, KCMP_VM, 0, 0) == 0;
	}
	closedir(proc);
	return found;
}
