/* Preloaded in place of the shim: says that it was. */
#include <unistd.h>

__attribute__((constructor)) static void say(void)
{
	static const char text[] = "[shim]";
	if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0)
		_exit(1);
}
